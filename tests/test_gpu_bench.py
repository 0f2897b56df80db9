"The parts of the GPU benchmark that can be held to something without a GPU."

import pytest
import torch
from gpu_bench import SHAPES, config_of, forward_flops, options_of, write_lines
from torch.utils.flop_counter import FlopCounterMode
from training_toys import toy_texts
from transformers import Qwen3VLForConditionalGeneration

from unirg.training.policy import train_tokenizer


def test_flops_are_those_that_torch_counts():
    config = config_of("toy", train_tokenizer(toy_texts()))
    config._attn_implementation = "eager"
    model, side, words = Qwen3VLForConditionalGeneration(config), 512 // 16, 100
    film = torch.full((1, side * side // 4), config.image_token_id)
    ids = torch.cat([film, torch.randint(7, 200, (1, words))], 1)
    pixels = torch.randn(side * side, 3 * 2 * 16 * 16)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        given = {"image_grid_thw": torch.tensor([[1, side, side]]), "mm_token_type_ids": (ids == config.image_token_id).int()}
        model(input_ids=ids, pixel_values=pixels, **given)
    ours = forward_flops(config, ids.shape[1], ids.shape[1], side * side)
    # torch counts all scores between tokens where a causal policy needs half of them; otherwise the two are the same sum
    text = config.text_config
    half = 2 * text.num_hidden_layers * ids.shape[1] ** 2 * text.num_attention_heads * text.head_dim
    assert ours + half == pytest.approx(counted.get_total_flops(), rel=0.02)


@pytest.mark.parametrize(("shape", "billions"), [("2B", 2.1), ("8B", 8.8)])
def test_shapes_have_the_sizes_they_are_named_for(shape, billions):
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config_of(shape, train_tokenizer(toy_texts())))
    assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(billions, rel=0.03)
    assert set(SHAPES) == {"2B", "8B", "toy"} and options_of([]).shapes == ["2B", "8B"]


def test_a_device_has_one_table_and_leaves_the_others_alone(tmp_path):
    path = tmp_path / "BENCHMARKS.md"
    path.write_text("# Benchmarks\n\n| what | value | beside |\n|---|---|---|\n| films | 3 |  |\n")
    write_lines(path, "GPU A", [("tokens", 1.0, "")])
    write_lines(path, "GPU B", [("tokens", 2.0, "")])
    write_lines(path, "GPU A", [("tokens", 3.0, "")])
    text = path.read_text()
    assert text.startswith("# Benchmarks") and "| films | 3 |" in text
    assert text.count("## On GPU A") == 1 == text.count("## On GPU B") and "| tokens | 3 |" in text and "| tokens | 1 |" not in text
