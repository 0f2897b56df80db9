"unirg-generate: a ReXrank submission, refused by name where a film is missing, resumed where it was killed."

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training_toys import toy_texts

from unirg.core import StudyError, read_json, write_json
from unirg.data.layouts import json_entries
from unirg.phantom.archives import write_archive
from unirg.training import generation
from unirg.training.launch import environment
from unirg.training.policy import build_tiny_policy, load_processor, train_tokenizer
from unirg.training.submission import main, policies, policy_place, report_images, submit

REAL = Path(__file__).parents[2] / "shared" / "real_data" / "iu_xray_text" / "ReXRank_IUXray_test.json"
COMMAND = "from unirg.training.submission import main\nif __name__ == '__main__': main()"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    "A folder with a tiny policy and the phantom's ReXrank set."
    folder = tmp_path_factory.mktemp("submission")
    build_tiny_policy(toy_texts(), folder / "tiny")
    write_archive("rexrank", folder, 12, 3)
    return folder


def arguments(place, out, **more):
    "The command line for the phantom's set."
    [file] = (place / "rexrank").glob("*.json")
    asked = {"model": place / "tiny", "input_json_file": file, "save_json_file": out, "img_root_dir": place / "rexrank" / "images"}
    return [f"--{name}={value}" for name, value in (asked | {"max_new_tokens": 6, "batch_size": 2} | more).items()]


def entries(place):
    [file] = (place / "rexrank").glob("*.json")
    return dict(json_entries(file))


@pytest.fixture(scope="module")
def whole(place):
    main(arguments(place, place / "whole.json"))
    return read_json(place / "whole.json")


def test_the_records_come_back_with_one_prediction_each(place, whole):
    given = entries(place)
    assert list(whole) == list(given)
    for study, record in whole.items():
        record = dict(record)
        assert isinstance(record.pop("model_prediction"), str)
        assert record == json.loads(json.dumps(given[study]).replace("NaN", "null"))
    assert not [path for path in place.iterdir() if path.name.startswith(".whole")], "nothing is left over"


def test_killed_and_restarted_it_goes_on(place, whole, tmp_path):
    out = tmp_path / "killed.json"
    writer = subprocess.Popen([sys.executable, "-c", COMMAND, *arguments(place, out, batch_size=1)], env=environment())
    deadline, pattern = time.time() + 600, f".{out.name}.work/*/.greedy.json.*.parts/0*.json"
    while not list(tmp_path.glob(pattern)):
        assert writer.poll() is None and time.time() < deadline
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob(pattern)}
    assert 0 < len(done) < len(whole) and not out.exists()
    kept, real = {}, generation.write_predictions
    with pytest.MonkeyPatch.context() as patch:  # look at the batches before they go
        patch.setattr(generation, "write_predictions", lambda *told: (kept.update({p: p.stat().st_mtime_ns for p in done}), real(*told))[1])
        main(arguments(place, out, batch_size=1))
    assert kept == done, "what was done is not done again"
    assert read_json(out) == whole and [path.name for path in tmp_path.iterdir()] == [out.name]


def refused(argv, capsys):
    "The one line that a refusal writes."
    with pytest.raises(SystemExit) as ended:
        main(argv)
    said = capsys.readouterr()
    assert ended.value.code == 2 and said.out == "" and said.err.count("\n") == 1
    return said.err


@pytest.mark.skipif(not REAL.exists(), reason="ReXrank's IU-Xray test file is not here")
def test_missing_films_of_the_real_test_set_are_refused_by_name(place, tmp_path, capsys):
    real, images = read_json(REAL), tmp_path / "images"
    images.mkdir()
    asked = dict(input_json_file=REAL, img_root_dir=images)
    first, *rest = real
    said = refused(arguments(place, tmp_path / "out.json", **asked), capsys)
    assert real[first]["key_image_path"] in said and f"'{first}'" in said and str(len(rest)) in said
    placeholder(images / real[first]["key_image_path"])
    for study in rest[:-1]:
        (images / real[study]["key_image_path"]).parent.mkdir()
        os.link(images / real[first]["key_image_path"], images / real[study]["key_image_path"])
    said = refused(arguments(place, tmp_path / "out.json", **asked), capsys)
    assert real[rest[-1]]["key_image_path"] in said and "more" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["images"], "nothing is written"


@pytest.mark.skipif(not REAL.exists(), reason="ReXrank's IU-Xray test file is not here")
def test_the_real_test_set_runs_with_placeholder_films(place, tmp_path):
    real = read_json(REAL)
    odd = [study for study, entry in real.items() if len(entry["frontal_lateral"]) != len(entry["image_path"])]
    some = {study: real[study] for study in [*list(real)[:6], *odd[:6]]}
    for study in some:
        placeholder(tmp_path / "images" / some[study]["key_image_path"])
    write_json(tmp_path / "in.json", some)
    submit(place / "tiny", tmp_path / "in.json", tmp_path / "out.json", tmp_path / "images", max_new_tokens=4)
    written = read_json(tmp_path / "out.json")
    assert all(isinstance(record.pop("model_prediction"), str) for record in written.values())
    assert written == some and list(written) == list(some)


def placeholder(path):
    "A film that shows nothing, though not nothing at all."
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)).save(path)


def test_what_cannot_be_a_submission_is_refused(place, tmp_path, capsys):
    film = next(iter(entries(place).values()))["key_image_path"].lstrip("/")
    shutil.copytree(place / "rexrank" / "images", tmp_path / "images")
    (tmp_path / "images" / film).write_bytes(b"not a film")
    said = refused(arguments(place, tmp_path / "out.json", img_root_dir=tmp_path / "images"), capsys)
    assert film in said and next(iter(entries(place))) in said
    twice = tmp_path / "twice.json"
    twice.write_text('{"a": {}, "a": {}}')
    assert "'a' is there twice" in refused(arguments(place, tmp_path / "out.json", input_json_file=twice), capsys)
    assert "nowhere" in refused(arguments(place, tmp_path / "out.json", model=tmp_path / "nowhere"), capsys)
    assert "is missing" in refused(arguments(place, tmp_path / "out.json", input_json_file=tmp_path / "none.json"), capsys)
    assert "is the input" in refused(arguments(place, twice, input_json_file=twice), capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "twice.json"]


def test_the_reference_does_not_reach_the_prompt(place, whole, tmp_path):
    references = ("report", "section_findings", "section_impression")
    stripped = {study: {name: entry[name] for name in entry if name not in references} for study, entry in entries(place).items()}
    (tmp_path / "in.json").write_text(json.dumps(stripped))
    main(arguments(place, tmp_path / "out.json", input_json_file=tmp_path / "in.json"))
    assert [r["model_prediction"] for r in read_json(tmp_path / "out.json").values()] == [r["model_prediction"] for r in whole.values()]


def test_consensus_needs_a_threshold_and_writes_one_report_a_study(place, whole, tmp_path):
    with pytest.raises(StudyError, match="threshold"):
        submit(place / "tiny", "in.json", "out.json", "images", samples=4)
    main(arguments(place, tmp_path / "out.json", samples=3, threshold=0.4))
    assert list(read_json(tmp_path / "out.json")) == list(whole)


def test_a_checkpoint_of_another_family_runs(place, whole, tmp_path):
    "LLaVA with its own processor, template and image size: nothing of Qwen3-VL in it."
    llava(tmp_path / "llava")
    assert type(load_processor(tmp_path / "llava")).__name__ == "LlavaProcessor"
    main(arguments(place, tmp_path / "out.json", model=tmp_path / "llava", prompt_template='{"task": "Describe."}'))
    assert list(read_json(tmp_path / "out.json")) == list(whole)


def llava(folder):
    "A tiny LLaVA with random weights, saved as released checkpoints are: model and processor in one folder."
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = train_tokenizer(toy_texts())
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokens = dict(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    sight = CLIPVisionConfig(**sizes, image_size=48, patch_size=16, projection_dim=32)
    words = LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=len(tokenizer), **tokens)
    config = LlavaConfig(vision_config=sight, text_config=words, image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    films = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    part = "{{ '<image>' if c['type'] == 'image' else c['text'] }}"
    template = f"{{% for m in messages %}}{{% for c in m['content'] %}}{part}{{% endfor %}}{{% endfor %}}"
    options = dict(patch_size=16, vision_feature_select_strategy="default", chat_template=template, num_additional_image_tokens=1)
    LlavaProcessor(films, tokenizer, **options).save_pretrained(folder)


def told(*arguments):
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    return ended.value.code


def test_the_policy_that_comes_along_reads_a_film_as_in_the_study(capsys):
    "The film is one of Eastholt's with atelectasis and a nodule; no folder is left beside it."
    film = policies()["phantom-rl"].parent / "film.png"
    beside = sorted(film.parent.iterdir())
    main(["--model", "phantom-rl", "--indication", "Cough.", str(film)])
    out, err = capsys.readouterr()
    assert out.startswith(f"{film}: Findings:") and "atelectasis" in out and "not for clinical use" in err
    assert sorted(film.parent.iterdir()) == beside


def test_films_of_several_folders_have_a_report_each_whatever_their_names(tmp_path):
    film = policies()["phantom-rl"].parent / "film.png"
    places = [tmp_path / "a/film.png", tmp_path / "b/film.png", tmp_path / "a b,c.JPG"]
    for place in places:
        place.parent.mkdir(exist_ok=True)
        Image.open(film).save(place, format="JPEG" if place.suffix == ".JPG" else "PNG")
    reports = report_images(places, model=policy_place("phantom-rl"))
    assert list(reports) == [str(place) for place in places] and all(map(str.split, reports.values()))
    assert reports[str(places[0])] == reports[str(places[1])]


def test_what_is_asked_wrongly_of_films_is_told_in_a_line(tmp_path, capsys):
    film = str(policies()["phantom-rl"].parent / "film.png")
    assert told("--model", "phantom-sft", film) == 2 and "phantom-rl" in capsys.readouterr().err
    assert told("--model", "phantom-rl", str(tmp_path / "no.png")) == 2 and "no.png: there is no such film" in capsys.readouterr().err
    assert told("--model", "phantom-rl") == 2 and "give films, or all of" in capsys.readouterr().err
    assert told("--model", "phantom-rl", film, "--save_json_file", "x.json") == 2 and "give films, or all of" in capsys.readouterr().err
    (tmp_path / "text.png").write_text("no film")
    assert told("--model", "phantom-rl", str(tmp_path / "text.png")) == 2 and "text.png" in capsys.readouterr().err


def test_the_policy_that_comes_along_is_small_and_names_no_place():
    folder = policies()["phantom-rl"]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2e6
    card = (folder / "README.md").read_text()
    assert "not for clinical use" in card and "Simulated data" in card
    assert not [file.name for file in folder.iterdir() if b"/outputs/" in file.read_bytes()]
