"Policies' folders as the hub has them, with random weights and stock processor files, for trials of what starts from a hub id."

import json
from pathlib import Path

import torch
from tokenizers.processors import TemplateProcessing
from training_toys import toy_texts
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

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


def tokenizer_with(specials: list[str], begin: str, end: str, pad: str, **named) -> PreTrainedTokenizerFast:
    "A tokenizer of reports whose post-processor begins each text, as Llama's and Gemma's do."
    learned = train_tokenizer([*toy_texts(), *["user\nmodel\nUser:Assistant:USER: ASSISTANT:"] * 50], 900).backend_tokenizer
    options = dict(bos_token=begin, eos_token=end, pad_token=pad, padding_side="left", **named)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=learned, extra_special_tokens=specials, **options)
    first = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, tokenizer.convert_tokens_to_ids(begin))])
    tokenizer.backend_tokenizer.post_processor = first
    return tokenizer


def written_as_on_the_hub(folder: Path, model, tokenizer, kind: str, films: dict, template: str, **processor) -> Path:
    "A folder with the files that the hub's own have; weights in 16 bits."
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    said = json.loads((folder / "tokenizer_config.json").read_text()) | {"processor_class": f"{kind}Processor"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "preprocessor_config.json").write_text(json.dumps(films | {"processor_class": f"{kind}Processor"}))
    (folder / "processor_config.json").write_text(json.dumps(processor | {"processor_class": f"{kind}Processor"}))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    return folder


def templates() -> Path:
    import trl

    return Path(trl.__file__).parent / "chat_templates"


def hub_like_gemma3(folder: Path) -> Path:
    "Gemma 3: a film is 16 soft tokens between two others, tokens of one film see each other, a turn ends before the text does."
    specials = ["<start_of_image>", "<end_of_image>", "<image_soft_token>", "<start_of_turn>", "<end_of_turn>", "<unk>"]
    named = dict(zip(("boi_token", "eoi_token", "image_token"), specials, strict=False))
    tokenizer = tokenizer_with([], "<bos>", "<eos>", "<pad>", unk_token="<unk>")
    tokenizer.add_special_tokens({"extra_special_tokens": specials})
    number = tokenizer.convert_tokens_to_ids
    text = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16)
    text |= dict(vocab_size=(len(tokenizer) + 63) // 64 * 64, sliding_window=64, query_pre_attn_scalar=16, max_position_embeddings=4096)
    text |= dict(layer_types=["sliding_attention", "full_attention"])
    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8)
    tokens = dict(boi_token_index=number("<start_of_image>"), eoi_token_index=number("<end_of_image>"))
    tokens |= dict(image_token_index=number("<image_soft_token>"), mm_tokens_per_image=16)
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, **tokens))
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)  # nought where nothing was learned
    ends = [tokenizer.eos_token_id, number("<end_of_turn>")]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=True, top_k=64, top_p=0.95
    )
    films = {"size": {"height": 64, "width": 64}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_resize": True, "resample": 2}
    films |= {"do_convert_rgb": None, "do_pan_and_scan": None, "image_processor_type": "Gemma3ImageProcessor", "image_seq_length": 16}
    template = (templates() / "gemma3.jinja").read_text()
    written_as_on_the_hub(folder, model, tokenizer, "Gemma3", films, template, image_seq_length=16)
    said = json.loads((folder / "tokenizer_config.json").read_text()) | {"extra_special_tokens": named}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def hub_like_idefics3(folder: Path) -> Path:
    "Idefics3: a film is cut into four crops beside the whole of it; a turn ends with another token than the text."
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    specials = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *places]
    tokenizer = tokenizer_with(specials, "<|begin_of_text|>", "<|end_of_text|>", "<pad>")
    text = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)
    text |= dict(vocab_size=len(tokenizer), max_position_embeddings=4096, pad_token_id=tokenizer.pad_token_id, model_type="llama")
    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    token = tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(0)
    options = dict(image_token_id=token, scale_factor=2, pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=False)
    model = Idefics3ForConditionalGeneration(Idefics3Config(text_config=text, vision_config=vision, **options))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    films = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}, "do_image_splitting": True, "do_pad": True}
    films |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 1, "image_processor_type": "Idefics3ImageProcessor"}
    template = (templates() / "idefics3.jinja").read_text()
    return written_as_on_the_hub(folder, model, tokenizer, "Idefics3", films, template, image_seq_len=4)


LLAVA = (  # films first, then text; nothing ends an answer, nothing begins a prompt
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def hub_like_llava(folder: Path) -> Path:
    "LLaVA 1.5: films of one size and 16 tokens, a template without a beginning or an end."
    tokenizer = tokenizer_with(["<image>"], "<s>", "</s>", "<pad>", unk_token="<unk>")
    vision = CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    text = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    token = tokenizer.convert_tokens_to_ids("<image>")
    options = dict(image_token_index=token, vision_feature_layer=-2, vision_feature_select_strategy="default", image_seq_length=16)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, **options))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    films = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True, "do_convert_rgb": True}
    films |= {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "image_processor_type": "CLIPImageProcessor"}
    processor = dict(patch_size=8, vision_feature_select_strategy="default", image_token="<image>", num_additional_image_tokens=1)
    return written_as_on_the_hub(folder, model, tokenizer, "Llava", films, LLAVA, **processor)


HUB_LIKE = {"qwen3_vl": hub_like_policy, "gemma3": hub_like_gemma3, "idefics3": hub_like_idefics3, "llava": hub_like_llava}
