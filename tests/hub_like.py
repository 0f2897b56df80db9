"A policy's folder as the hub has them: Qwen3-VL with random weights and stock processor files, for trials of what starts from a hub id."

import json
from pathlib import Path

import torch
from training_toys import toy_texts
from transformers import GenerationConfig, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from unirg.training.policy import train_tokenizer


def hub_like_policy(folder: Path) -> Path:
    "Write it: 16-px patches merged two by two, weights in 16 bits, a tokenizer that pads right, a generation config that samples."
    import trl

    tokenizer, token = train_tokenizer(toy_texts(), 1200), {}
    for name in ("image", "video"):
        token |= {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>")}
    for name in ("start", "end"):
        token |= {f"vision_{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|vision_{name}|>")}
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    text |= dict(vocab_size=(len(tokenizer) + 63) // 64 * 64, max_position_embeddings=262144, rope_parameters=rope)
    vision = dict(depth=2, hidden_size=32, intermediate_size=64, num_heads=2, patch_size=16, spatial_merge_size=2, out_hidden_size=64)
    vision |= dict(temporal_patch_size=2, num_position_embeddings=2304, deepstack_visual_indexes=[0])
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=False, **token))
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(
        pad_token_id=ends[1], eos_token_id=ends, do_sample=True, top_k=20, top_p=0.8, temperature=0.7
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(folder)
    said = json.loads((folder / "tokenizer_config.json").read_text()) | {"processor_class": "Qwen3VLProcessor"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    films = {"size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16, "temporal_patch_size": 2, "merge_size": 2}
    films |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "processor_class": "Qwen3VLProcessor"}
    image = films | {"image_processor_type": "Qwen2VLImageProcessorFast"}
    (folder / "preprocessor_config.json").write_text(json.dumps(image))
    video = films | {"size": {"longest_edge": 25165824, "shortest_edge": 4096}, "video_processor_type": "Qwen3VLVideoProcessor"}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
    template = (Path(trl.__file__).parent / "chat_templates/qwen3_vl.jinja").read_text()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    return folder
