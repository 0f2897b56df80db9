"""What training costs on this GPU: Qwen3-VL shapes with random weights, 512 x 512 films, bf16. Appended to BENCHMARKS.md, by device.

python tests/gpu_bench.py [--shapes 2B 8B] [--full] [--steps 12]     (LoRA unless --full; needs `pip install -e '.[lora]'`)
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from unirg.core import read_json, write_json, atomic_write_text
from unirg.data.reports import prompt_text, target_text
from unirg.data.sources import read_source
from unirg.phantom.archives import write_archive
from unirg.training.policy import SPECIAL_TOKENS, ImageOnlyProcessor, train_tokenizer

ROOT = Path(__file__).parents[1]
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}  # dense bf16 FLOP/s of the makers' sheets
# text: width, layers, heads, KV heads, MLP, head size, words; vision: width, layers, heads, MLP, layers that feed deepstack
SHAPES = {
    "2B": ((2048, 28, 16, 8, 6144, 128, 151936), (1024, 24, 16, 4096, [5, 11, 17])),
    "8B": ((4096, 36, 32, 8, 12288, 128, 151936), (1152, 27, 16, 4304, [8, 16, 24])),
    "toy": ((64, 2, 4, 2, 128, 16, 2000), (32, 2, 2, 64, [0])),
}


def config_of(shape, tokenizer):
    "Qwen3-VL's config at a shape; the tokenizer has fewer words than the policy, which costs nothing."
    (width, layers, heads, kv_heads, mlp, head, words), (seen, depth, eyes, vision_mlp, deep) = SHAPES[shape]
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_interleaved": True}
    rope["mrope_section"] = [head // 2 - 2 * (head // 6), head // 6, head // 6]
    text = dict(vocab_size=words, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads)
    text |= dict(intermediate_size=mlp, head_dim=head, rope_parameters=rope, tie_word_embeddings=shape != "8B")
    vision = dict(hidden_size=seen, depth=depth, num_heads=eyes, intermediate_size=vision_mlp, out_hidden_size=width)
    vision |= dict(deepstack_visual_indexes=deep, patch_size=16, spatial_merge_size=2)
    ids = zip(("vision_start", "vision_end", "image", "video"), SPECIAL_TOKENS[3:])
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in ids}
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=shape != "8B", **ids)


def forward_flops(config, tokens, written, patches):
    "FLOPs of a row forward: its tokens, those of them whose next word is computed, and the patches of its films; two a multiplication."
    text, vision = config.text_config, config.vision_config
    width, heads, kv, head = text.hidden_size, text.num_attention_heads, text.num_key_value_heads, text.head_dim
    layer = width * head * (2 * heads + 2 * kv) + 3 * width * text.intermediate_size
    attention = 2 * tokens * heads * head / 2  # each looks back at half of the others, for scores and for values
    flops = 2 * tokens * text.num_hidden_layers * (layer + attention) + 2 * written * width * text.vocab_size
    seen, merge = vision.hidden_size, vision.spatial_merge_size**2
    layer = 4 * seen**2 + 2 * seen * vision.intermediate_size + 2 * patches * seen
    flops += 2 * patches * (vision.depth * layer + 3 * vision.temporal_patch_size * vision.patch_size**2 * seen)
    merger = (merge * seen) ** 2 + merge * seen * vision.out_hidden_size
    return flops + 2 * patches / merge * merger * (1 + len(vision.deepstack_visual_indexes))


def build_policy(shape, texts, folder, device):
    "A policy with random weights in bf16, (config, tokenizer)."
    tokenizer = train_tokenizer(texts)
    films = Qwen2VLImageProcessorPil(patch_size=16, merge_size=2, size={"shortest_edge": 512**2, "longest_edge": 512**2})
    template = (Path(find_spec("trl").origin).parent / "chat_templates/qwen3_vl.jinja").read_text()
    config = config_of(shape, tokenizer)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen3VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    stop, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config = GenerationConfig(eos_token_id=stop, pad_token_id=pad, do_sample=False)
    model.save_pretrained(folder)
    ImageOnlyProcessor(films, tokenizer, template).save_pretrained(folder)
    return config, tokenizer


def run(kind, job, folder):
    "One short training by our own trainer, in a process of its own: its clock and its record."
    path, out = write_json(f"{folder}/{kind}.json", job), f"{folder}/{kind}.clock.json"
    line = [sys.executable, str(Path(__file__).with_name("trainer_bench.py")), "ours", kind, str(path), out]
    done = subprocess.run(line, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{kind}: {done.stdout[-1500:]}\n{done.stderr[-1500:]}")
    return read_json(out), read_json(Path(job["out"]) / "training.json")


def measured(shape, folder, options, device="cuda"):
    "The lines of one shape: (what, value, beside)."
    write_archive("iu_xray", f"{folder}/world", options.studies, 1)
    table = read_source("iu_xray", f"{folder}/world/iu_xray", out=f"{folder}/data").table.remove_columns("image")
    texts = [text for study in table for text in (target_text(study), prompt_text(study, prompt_template="full")) if text]
    config, tokenizer = build_policy(shape, texts, f"{folder}/policy", device)
    written = np.mean([len(tokenizer(text)["input_ids"]) for study in table if (text := target_text(study))])
    gpu = device == "cuda"
    name = torch.cuda.get_device_name() if gpu else "CPU"
    peak = next((value for part, value in PEAK.items() if part in name), None)
    trl = {"max_steps": options.steps, "warmup_steps": 2, "learning_rate": 1e-5, "logging_steps": 1, "save_steps": 10_000}
    trl |= {"dtype": "bfloat16", "bf16": "yes", "gradient_checkpointing": "yes" if gpu else "no"}
    trl |= {"per_device_train_batch_size": options.batch, "lora_r": 64, "lora_alpha": 128, "use_peft": "no" if options.full else "yes"}
    trl = {name: str(value) for name, value in trl.items()}
    job = {"start": f"{folder}/policy", "tables": [f"{folder}/data"], "prompt_template": "full", "evaluate_studies": 0}
    clock, record = run("sft", job | {"kind": "sft", "out": f"{folder}/sft", "trl": trl, "batch": options.batch}, folder)
    seconds = np.median(np.diff(np.array(clock["steps"])[:, 0])[2:])
    tokens = record["spent"]["num_tokens"] / record["spent"]["step"] / options.batch  # a row
    times = 3 if options.full else 2  # frozen weights need no gradient of their own
    flops = times * forward_flops(config, tokens, written, 1024)
    how = f"{shape}, {'all weights' if options.full else 'LoRA 64'}"
    beside = f"batch {options.batch}, {tokens:.0f} tokens a row, {seconds:.2f} s a step"
    yield f"{how}: SFT, tokens a second", options.batch * tokens / seconds, beside
    if peak:
        yield (
            f"{how}: SFT, model-FLOP utilisation, %",
            100 * options.batch * flops / seconds / peak,
            f"of {peak / 1e12:.0f} TFLOP/s; aim 45",
        )
    if clock["peak"]:
        yield f"{how}: SFT, peak memory, GiB", clock["peak"] / 2**30, ""
    group = {"num_generations": str(options.batch // 2), "max_completion_length": "128"}
    for writer in ["transformers", *(["vllm"] if gpu and find_spec("vllm") else [])]:
        own = {"kind": "grpo", "batch": 2, "trl": trl | group | {"use_vllm": "yes" if writer == "vllm" else "no"}}
        clock, _ = run("grpo", job | own | {"out": f"{folder}/grpo_{writer}"}, folder)
        step = np.diff(np.array(clock["steps"])[:, 0])[2:].mean()
        shares = {what: 100 * np.sum(spent[3:]) / (step * (options.steps - 3)) for what, spent in clock["parts"].items() if spent}
        split = ", ".join(f"{what} {share:.0f} %" for what, share in shares.items())
        memory = f"; peak {clock['peak'] / 2**30:.0f} GiB" if clock["peak"] else ""
        yield f"{how}: GRPO by {writer}, s a step", step, f"{options.batch} completions; {split}{memory}"


def write_lines(path, device, lines):
    "Put a device's table at the end of the file, in the place of an earlier one of the same device."
    kept = path.read_text(encoding="utf-8").split("\n## ")
    kept = [part for i, part in enumerate(kept) if i == 0 or part.splitlines()[0] != f"On {device}"]
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}. Random weights, 512 x 512, bf16; by `python tests/gpu_bench.py`."
    )
    table = "\n".join(f"| {what} | {value:.3g} | {beside} |" for what, value, beside in lines)
    section = f"On {device}\n{versions}\n\n| what | value | beside |\n|---|---|---|\n{table}\n"
    atomic_write_text(path, "\n## ".join([*(part.rstrip() + "\n" for part in kept), section]))


def options_of(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["2B", "8B"], choices=list(SHAPES))
    parser.add_argument("--full", action="store_true", help="all weights instead of LoRA")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16, help="rows, or completions, at a time")
    parser.add_argument("--studies", type=int, default=200)
    return parser.parse_args(arguments)


def main():
    options = options_of()
    if not torch.cuda.is_available():
        raise SystemExit("gpu_bench: there is no GPU here")
    lines = []
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            for line in measured(shape, folder, options):
                print(json.dumps(line), flush=True)
                lines.append(line)
    write_lines(ROOT / "BENCHMARKS.md", torch.cuda.get_device_name(), lines)


if __name__ == "__main__":
    main()
