"""The training scripts: each recipe at toy size runs, each published one is made of valid arguments."""

import importlib
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoProcessor, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from modeling_tests import tiny
from modeling_tests.process_runs import processes
from transformers_anymodality import AnyModalityDataCollator, MediaError, set_trainable
from transformers_anymodality.data import load
from transformers_anymodality.features import build_features
from transformers_anymodality.systems import SYSTEMS
from transformers_anymodality.training.callbacks import AnswersCallback, ThroughputCallback, by_modality


EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = ("align", "instruct", "x2l")
PUBLISHED = sorted(file.stem for file in (EXAMPLES / "recipes").glob("*.yaml"))
# In the order in which some go on from others.
SMALL = {
    "pandagpt_instruct": "instruct",
    "macaw_llm_instruct": "instruct",
    "mplug_owl_align": "align",
    "mplug_owl_instruct": "instruct",
    "anymal_align": "align",
    "anymal_instruct": "instruct",
    "x_llm_interface": "x2l",
    "x_llm_image": "x2l",
    "x_llm_speech": "x2l",
    "x_llm_video": "x2l",
    "x_llm_joint": "x2l",
}


def script_of(recipe: str) -> str:
    first = "x_llm" if recipe.startswith("x_llm") else recipe
    return "x2l" if first == "x_llm" else "align" if "_align" in recipe else "instruct"


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(EXAMPLES))
    yield {name: importlib.import_module(name) for name in SCRIPTS}
    sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def world(tmp_path_factory, scripts) -> Path:
    """A folder with what the small recipes train on."""
    folder = tmp_path_factory.mktemp("world")
    importlib.import_module("small_data").main(["--output", str(folder / "outputs" / "small")])
    return folder


def options(recipe: str, *more: str) -> list[str]:
    return ["--config", str(EXAMPLES / "recipes" / "small" / f"{recipe}.yaml"), "--disable_tqdm", "true", *more]


@pytest.mark.slow
def test_small_recipes_run_one_after_the_other(world, scripts, monkeypatch):
    """Two steps of each system and stage; what comes out is what is loaded next, and by the Auto classes."""
    monkeypatch.chdir(world)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    for recipe, script in SMALL.items():
        scripts[script].main(options(recipe, "--max_steps", "2", "--eval_steps", "2"))
        folder = world / "outputs" / "small" / recipe
        log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        losses = [entry for entry in log if "loss" in entry]
        assert len(losses) == 2 and all(entry["tokens_per_second"] > 0 for entry in losses), recipe
        assert any(name.startswith("eval_") and name.endswith("_loss") for entry in log for name in entry), recipe
        answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
        assert answers and answers[0]["step"] == 2 and answers[0]["expected"] == "red", recipe
        adapter = (folder / "adapter_config.json").exists()
        assert adapter == (script == "instruct" and recipe != "macaw_llm_instruct"), recipe
        whole = folder / "merged" if adapter else folder
        AutoProcessor.from_pretrained(whole)
        assert not any(p.isnan().any() for p in AutoModelForCausalLM.from_pretrained(whole).parameters())


@pytest.mark.slow
def test_features_packing_and_four_bits_are_settings(world, scripts, monkeypatch):
    """Stage 1 on a language model in 4 bits, features of its towers instead of media, packed: it learns as without."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.chdir(world)
    language = LlamaForCausalLM(
        LlamaConfig(vocab_size=259, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    )
    language.save_pretrained("language_model")
    AutoProcessor.from_pretrained("outputs/small/anymal_align").tokenizer.save_pretrained("language_model")
    four_bit = ["--load_in_4bit", "--language_model", "language_model", "--tokenizer", "outputs/small/tokenizer"]
    data = ["--train_data", "outputs/small/image.jsonl", "--max_steps", "2", "--eval_strategy", "no", "--seed", "1"]
    scripts["align"].main(options("anymal_align", *four_bit, *data, "--output_dir", "four_bit"))
    model = AutoModelForCausalLM.from_pretrained("four_bit")
    records = load("outputs/small/image.jsonl", media_root="outputs/small")
    build_features(model, AutoProcessor.from_pretrained("four_bit"), records, "features", verbose=False)
    losses = {}
    for name, more in {"media": [], "features": ["--features", "features"], "packed": ["--packing"]}.items():
        place = ["--model", "four_bit", "--max_length", "200", "--output_dir", name]
        scripts["align"].main(options("anymal_align", *place, *data, *more))
        log = json.loads(Path(name, "trainer_state.json").read_text())["log_history"]
        losses[name] = [entry["loss"] for entry in log if "loss" in entry]
    assert losses["features"] == pytest.approx(losses["media"], abs=1e-4)
    # Products in 4 bits are rounded by how many rows there are.
    assert losses["packed"] == pytest.approx(losses["media"], abs=2e-4)


@pytest.mark.slow
def test_an_adapter_says_where_its_base_is(world, scripts, monkeypatch):
    """Composed within the script, there is none before; the base and its adapter give what was merged."""
    from peft import AutoPeftModelForCausalLM

    monkeypatch.chdir(world)
    scripts["instruct"].main(options("pandagpt_instruct", "--max_steps", "1", "--output_dir", "adapter"))
    again = AutoPeftModelForCausalLM.from_pretrained("adapter").merge_and_unload()
    merged = AutoModelForCausalLM.from_pretrained("adapter/merged")
    for name, value in merged.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_a_command_that_goes_on_where_it_was(world, scripts, script, monkeypatch):
    """Stopped after two steps of four and called again, by its command, with `last`, it does the other two."""
    recipe = {"align": "anymal_align", "instruct": "macaw_llm_instruct", "x2l": "x_llm_interface"}[script]
    place = ["--output_dir", f"again_{script}", "--save_strategy", "steps", "--save_steps", "2"]
    monkeypatch.chdir(world)
    scripts[script].main(options(recipe, *place, "--max_steps", "2", "--resume_from_checkpoint", "last"))
    half = world / f"again_{script}" / "checkpoint-3"  # as a process leaves it that is killed while it saves
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    command = [sys.executable, str(EXAMPLES / f"{script}.py"), *options(recipe, *place)]
    paths = os.pathsep.join([str(EXAMPLES.parent), *sys.path])
    done = subprocess.run(
        [*command, "--resume_from_checkpoint", "last"],
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((world / f"again_{script}" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3, 4]
    assert "part " in done.stdout and "->" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_teaches(scripts, script, capsys):
    with pytest.raises(SystemExit):
        scripts[script].main(["--help"])
    text = capsys.readouterr().out
    for words in ("python examples/small_data.py", "--config", "--train_data", "--learning_rate", "--report_to"):
        assert words in text
    with pytest.raises(SystemExit, match="Say what to train"):
        scripts[script].main(["--use_cpu", "--output_dir", "never"])


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_published_recipes_are_valid_arguments(scripts, recipe, tmp_path):
    script = scripts[script_of(recipe)]
    recipe_module = importlib.import_module("recipe")
    file = EXAMPLES / "recipes" / f"{recipe}.yaml"
    overrides = ["--config", str(file), "--bf16", "false", "--output_dir", str(tmp_path), "--use_cpu"]
    model, data, stage, training = recipe_module.parse("", script.StageArguments, overrides)
    written = yaml.safe_load(file.read_text())
    assert written["bf16"] and f"recipes/{recipe}.yaml" in file.read_text()
    for name in ("learning_rate", "max_steps", "num_train_epochs", "weight_decay", "warmup_steps"):
        assert name not in written or getattr(training, name) == written[name]
    assert data.train_data and training.remove_unused_columns is False
    assert training.get_warmup_steps(10_000) >= 0
    if model.system:
        known = SYSTEMS[model.system].__kwdefaults__ or {}
        assert not set(model.options or {}) - set(known)
    else:
        assert model.model
    assert vars(stage)


LAUNCHES = re.compile(r"accelerate launch --config_file (\S+)\s+(examples/\w+\.py)")


def launches() -> list[tuple[str, str]]:
    """The config and the script of each line that README, documentation and examples launch by."""
    root = EXAMPLES.parent
    files = [root / "README.md", *root.glob("docs/**/*.md"), *EXAMPLES.rglob("*.py"), *EXAMPLES.rglob("*.yaml")]
    return sorted({pair for file in files for pair in LAUNCHES.findall(file.read_text(encoding="utf-8"))})


@pytest.mark.slow
@pytest.mark.parametrize(("config", "script"), [*launches(), (None, "examples/align.py")])
def test_each_launch_line_starts_two_processes(world, monkeypatch, config, script):
    """With two of the toy recipes' steps, on a CPU; without a config, by torchrun."""
    if config and "zero" in config:
        pytest.importorskip("deepspeed")
    monkeypatch.chdir(world)
    recipe = {"align": "anymal_align", "instruct": "mplug_owl_instruct", "x2l": "x_llm_interface"}[Path(script).stem]
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(EXAMPLES.parent / str(config))]
    launch += ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"]
    if config is None:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = options(recipe, "--max_steps", "2", "--eval_strategy", "no", "--output_dir", str(world / "launched"))
    if recipe == "mplug_owl_instruct":  # which goes on from another training
        importlib.import_module("align").main(options("mplug_owl_align", "--max_steps", "2", "--eval_steps", "2"))
    done = processes([*launch, str(EXAMPLES.parent / script), *words])
    assert done.returncode == 0, done.stderr[-3000:]
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    importlib.import_module(Path(script).stem).main([*words, "--output_dir", str(world / "alone")])
    assert not torch.distributed.is_initialized(), "processes that leave no group may abort at their end"
    two, one = (
        json.loads((world / name / "trainer_state.json").read_text())["epoch"] for name in ("launched", "alone")
    )
    assert two == pytest.approx(2 * one, rel=0.2), "as many steps of two processes see twice as many samples"


def test_every_system_has_recipes_of_both_sizes():
    for system in SYSTEMS:
        assert any(recipe.startswith(system) for recipe in PUBLISHED), system
        assert any(recipe.startswith(system) for recipe in SMALL), system
    assert {file.stem for file in (EXAMPLES / "recipes" / "small").glob("*.yaml")} == set(SMALL)


def test_a_mistyped_setting_is_named(scripts, tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("learning_rat: 1.0e-3\n")
    with pytest.raises(ValueError, match="learning_rat"):
        scripts["align"].main(["--config", str(file)])


def test_the_command_line_goes_before_the_file(scripts):
    recipe_module = importlib.import_module("recipe")
    model, data, stage, training = recipe_module.parse(
        "",
        scripts["align"].StageArguments,
        options("anymal_align", "--learning_rate", "3e-4", "--learning_rates", "{imu_aligner: 1e-5}"),
    )
    assert training.learning_rate == 3e-4 and training.max_steps == 4
    assert data.learning_rates == {"imu_aligner": "1e-5"} and stage.trainable == ["aligners"]


# --- callbacks ---------------------------------------------------------------------------------------------------------


def test_evaluation_data_by_modality():
    chats = [("image", "what ?"), ("what ?",), ("audio", "and", "image", "what ?"), ("image", "image")]
    samples = [{"messages": tiny.chat(*parts, answer="one")} for parts in chats]
    samples.append({"messages": [{"role": "user", "content": [{"type": "imu"}]}], "imu": [tiny.medium("imu")]})
    split = by_modality(samples)
    assert {name: len(rows) for name, rows in split.items()} == {"audio_image": 1, "image": 2, "imu": 1, "text": 1}
    assert split["image"][1] is samples[3]


def test_speed_and_answers_are_logged(tmp_path, capsys):
    model, processor = tiny.composite()
    set_trainable(model, "aligners", verbose=False)
    samples = [
        {"messages": tiny.chat("image", "what ?", seed=i, answer="two")} if i % 2 else
        {"messages": [{"role": "user", "content": [{"type": "imu"}]}, {"role": "assistant", "content": "one"}],
         "imu": [tiny.medium("imu", i)]}
        for i in range(8)
    ]  # fmt: skip
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=2,
        remove_unused_columns=False,
        include_num_input_tokens_seen="non_padding",
        eval_strategy="steps",
        eval_steps=2,
        logging_steps=2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=samples,
        eval_dataset=by_modality(samples),
        data_collator=AnyModalityDataCollator(processor),
        processing_class=processor,
        callbacks=[AnswersCallback(samples[:2], max_new_tokens=3)],
    )
    ThroughputCallback().attach(trainer)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in log] == [2, 4]
    assert all(entry["samples_per_second"] > 0 and entry["tokens_per_second"] > 0 for entry in log)
    names = {name for entry in trainer.state.log_history for name in entry}
    assert {"eval_image_loss", "eval_imu_loss"} <= names
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [(entry["step"], entry["question"], entry["expected"]) for entry in answers] == [
        (2, "<imu>", "one"),
        (2, "<image> what ?", "two"),
        (4, "<imu>", "one"),
        (4, "<image> what ?", "two"),
    ]
    assert "(expected: two)" in capsys.readouterr().out
    assert model.training is False or model.image_tower.training is False


@pytest.mark.slow
def test_preferences_and_rewards_have_their_effect(tmp_path, scripts):
    """Right answers become likelier and wrong ones less so; rewards rise; both about media, on files that are new."""
    pytest.importorskip("trl")
    dpo, grpo = importlib.import_module("dpo"), importlib.import_module("grpo")
    found = dpo.main(["--output", str(tmp_path)])
    before, after = found["log-probability of right answers"]
    assert after > before + 0.1
    before, after = found["of wrong answers"]
    assert after < before - 1
    before, after = grpo.main(["--output", str(tmp_path)])["reward"]
    assert after > before + 0.1


@pytest.mark.slow
def test_volumes_are_read_as_they_lie_in_the_patient_and_learnt(tmp_path, scripts):
    """NIfTI and DICOM in any order, direction, spacing and counts are what was scanned; new scans are answered right."""
    pytest.importorskip("nibabel")
    pytest.importorskip("pydicom")
    volumes = importlib.import_module("volumes")
    rng = random.Random(0)
    for number, side in enumerate(volumes.SIDES):
        values, spacing = volumes.scan(side, rng)
        volumes.write_nifti(values, spacing, tmp_path / f"{number}.nii.gz", rng)
        volumes.write_dicom(values, spacing, tmp_path / str(number), rng)
        for path in (tmp_path / f"{number}.nii.gz", tmp_path / str(number)):
            read, read_spacing = volumes.read_volume(path)
            assert np.abs(read - values).max() <= 0.26 and np.abs(read_spacing - spacing).max() < 1e-5
    slices = sorted((tmp_path / "0").iterdir())
    slices[len(slices) // 2].unlink()
    (tmp_path / "words.nii").write_text("no volume")
    for path, message in (("0", "lacks slices|lie"), ("words.nii", "not a NIfTI file")):
        with pytest.raises(MediaError, match=message):
            volumes.read_volume(tmp_path / path)
    for before, after in volumes.main(["--output", str(tmp_path / "run")]).values():
        assert before < 0.5 and after > 0.9
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    processor = AutoProcessor.from_pretrained(tmp_path / "run" / "model")
    assert (
        processor(text="<volume>", volume=str(tmp_path / "1"), return_tensors="pt").volume_values.shape[-3:]
        == (24,) * 3
    )
