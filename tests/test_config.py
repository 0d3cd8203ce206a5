"""The door: published files work unedited, whatever is wrong is said in one line."""

import dataclasses
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import attack
import main
from methods import METHODS, ExperimentConfig
from methods.checks import idle_in_attack, idle_in_run
from utils import cli
from utils.config import AttackConfig, RunConfig, identity, load_configs
from utils.errors import UserError
from utils.schema import describe

PUBLISHED = {
    "target_model": "final_model.pth",
    "method": "original",
    "model": "ncf",
    "lr": 0.001,
    "batch_size": 256,
    "epochs": 25,
    "dataset_path": "data/datasets/",
    "dataset": "ml-100k",
    "num_ng": 4,
    "test_num_ng": 99,
    "device": "cuda:0",
    "au_trade_off": 1e-6,
    "retrain_trade_off": 1,
}
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def load(cls, path, *overrides):
    return load_configs(cls, path, overrides, {"method": ["original", "u2u"], "model": ["ncf"]})


def test_the_published_file_is_shipped_and_holds_the_defaults():
    assert json.loads((CONFIGS / "exp_config.json").read_text()) == PUBLISHED
    assert load(ExperimentConfig, CONFIGS / "exp_config.json") == [ExperimentConfig()]
    attack_keys = json.loads((CONFIGS / "attack_config.json").read_text())
    names = "attack target_model method model dataset_path dataset device"
    assert list(attack_keys) == names.split()
    assert load(AttackConfig, CONFIGS / "attack_config.json") == [AttackConfig()]


def test_overrides_and_sweeps(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"seed": [0, 1], "method": ["original", "u2u"], "epochs": 3}')
    configs = load(ExperimentConfig, path, "epochs=4", "selection=last", "au_trade_off=0")
    assert [(c.seed, c.method) for c in configs] == [
        (0, "original"),
        (0, "u2u"),
        (1, "original"),
        (1, "u2u"),
    ]
    assert {(c.epochs, c.selection, c.au_trade_off) for c in configs} == {(4, "last", 0.0)}
    assert isinstance(configs[0].au_trade_off, float)


def test_a_saved_config_is_a_config(tmp_path):
    config = ExperimentConfig(method="u2u", embedding_size=8, lr=0.01)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(dataclasses.asdict(config)))
    assert load(ExperimentConfig, path) == [config]


def test_identity_takes_the_keys_of_its_groups_only():
    keys = identity(ExperimentConfig(), [METHODS["u2u"].options])
    assert "au_trade_off" in keys
    assert not keys.keys() & {"lr", "device", "method", "threads"}


@pytest.mark.parametrize(("program", "name"), [(main, "exp_config"), (attack, "attack_config")])
def test_the_schemas_for_editors_are_current(program, name, tmp_path, capsys):
    """If not: python main.py --schema > configs/exp_config.schema.json, attack.py likewise."""
    assert program.main(["--schema"]) == 0
    text = capsys.readouterr().out
    assert text == (CONFIGS / f"{name}.schema.json").read_text()
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    shipped = [CONFIGS / f"{name}.json", *CONFIGS.glob("reproduce_*.json")]
    command, kinds = program.COMMAND, []
    for path in shipped:
        content = json.loads(path.read_text())
        kinds.append(jsonschema.Draft202012Validator(schema).is_valid(content))
        # a run's config with keys of both commands alone is an attack's too
        assert kinds[-1] or ("attack" in path.name) != (program is attack), path
    assert {True, False} == set(kinds)
    for wrong in ({"seed": []}, {"seed": [-1]}, {"sed": 1}, {"attribute": "../x"}, {"device": 0}):
        assert not jsonschema.Draft202012Validator(schema).is_valid(wrong)
    (tmp_path / "c.json").write_text(f'{{"$schema": "{name}.schema.json", "seed": 1}}')
    (config,) = load(command.config, tmp_path / "c.json")
    assert config == command.config(seed=1)


def test_a_key_means_one_thing():
    options = {method.options for method in METHODS.values() if method.options}
    classes = {base for one in (RunConfig, *options) for base in one.__mro__}
    names = [name for one in classes for name in vars(one).get("__annotations__", {})]
    assert sorted(names) == sorted({field.name for field in dataclasses.fields(ExperimentConfig)})
    for key in ("attribute", "regularizer", "au_trade_off", "model", "dataset", "method", "seed"):
        assert getattr(AttackConfig, key) == getattr(ExperimentConfig, key)  # the same folder


def test_a_method_is_given_its_own_options_only():
    config = ExperimentConfig(method="adv", adv_width=3)
    assert METHODS["adv"].options_of(config) == METHODS["adv"].options(adv_width=3)
    assert METHODS["original"].options_of(config) is None


def test_help_explains_every_key(capsys):
    for cls, command in ((ExperimentConfig, main.main), (AttackConfig, attack.main)):
        with pytest.raises(SystemExit) as end:
            command(["--help"])
        shown = capsys.readouterr().out
        assert end.value.code == 0
        text = describe(cls, {})
        for field in dataclasses.fields(cls):
            assert f"  {field.name} = " in shown
            explanation = text.split(f"  {field.name} = ")[1].splitlines()[1]
            assert len(explanation.strip()) > 10


BROKEN_FILES = {
    "": "line 1",
    "{": "line 1, column 2",
    '{"epochs": 3,\n}': "line 2, column 1",
    '{"epochs": 3\n "lr": 1}': "line 2",
    "[]": "a JSON object",
    '{"epochs": 3, "epochs": 4}': '"epochs" is given more than once',
    '{"epoch": 3}': 'unknown key "epoch"; did you mean "epochs"?',
    '{"epochs": 0}': '"epochs" must be a whole number at least 1, got 0',
    '{"epochs": 2.5}': '"epochs" must be a whole number at least 1, got 2.5',
    '{"epochs": "3"}': 'got "3"',
    '{"epochs": true}': "got true",
    '{"epochs": null}': "got null",
    '{"epochs": [1, 2]}': "got [1, 2]",
    '{"lr": -0.1}': '"lr" must be a number above 0 and at most 10',
    '{"lr": NaN}': "got NaN",
    '{"lr": Infinity}': "got Infinity",
    '{"method": "u2"}': 'must be one of "original", "u2u", "d2d"',
    '{"method": []}': "empty list",
    '{"method": [["u2u"]]}': "must be one of",
    '{"model": {}}': "must be one of",
    '{"device": "cuda:x"}': '"cpu" or "cuda:0"',
    '{"dataset": "../secrets"}': '"dataset" must be a plain name',
    '{"attribute": ["gender", 3]}': "plain name",
    '{"seed": -1}': "at least 0",
    '{"selection": "best"}': '"validation", "test", "last"',
    '{"embedding_size": 0}': "or null",
    '{"target_model": "../x.pth"}': "plain name",
}


@pytest.mark.parametrize("content", BROKEN_FILES)
def test_broken_files_are_refused_in_one_line(content, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text(content)
    assert main.main(["--config", "c.json"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: c.json")
    assert shown.err.count("\n") == 1
    assert BROKEN_FILES[content] in shown.err
    assert sorted(tmp_path.iterdir()) == [tmp_path / "c.json"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--config", "nowhere.json"], "nowhere.json does not exist"),
        (["--config", "."], "is a folder"),
        (["epochs"], "not of the form key=value"),
        (["epochs=0"], "command line"),
        (["seeds=1"], 'did you mean "seed"?'),
    ],
)
def test_broken_arguments(arguments, says, workspace, capsys):
    assert main.main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_not_utf8_and_byte_order_mark(tmp_path):
    path = tmp_path / "c.json"
    path.write_bytes(b'\xef\xbb\xbf{"epochs": 3}')
    assert load(ExperimentConfig, path)[0].epochs == 3
    path.write_bytes(b'{"dataset": "\xff"}')
    with pytest.raises(UserError, match="not UTF-8"):
        load(ExperimentConfig, path)


def test_attackers_are_a_list_not_a_sweep(workspace, capsys):
    assert attack.main(['attackers=["mlp", "tree"]']) == 2
    assert 'one or a list of "mlp", "xgb"' in capsys.readouterr().err


def test_every_object_of_a_list_has_its_own_threads(tmp_path, monkeypatch, workspace):
    asked, path = [], tmp_path / "list.json"
    path.write_text('[{"threads": 1}, {"seed": 1, "threads": 2}]')
    monkeypatch.setattr(cli, "set_threads", asked.append)
    command = dataclasses.replace(
        main.COMMAND, run=lambda config: {"config": {}, "seconds": 0.0}, close=lambda *_: None
    )
    assert cli.execute(command, ["--config", str(path)]) == 0
    assert asked == [1, 2]


def test_a_list_of_objects_is_one_sweep_after_another(tmp_path):
    path = tmp_path / "list.json"
    path.write_text('[{"seed": [0, 1], "epochs": 3}, {"seed": 7}]')
    configs = load_configs(ExperimentConfig, path, ["lr=0.5"], {})
    found = [(config.seed, config.epochs, config.lr) for config in configs]
    assert found == [(0, 3, 0.5), (1, 3, 0.5), (7, 25, 0.5)]


@pytest.mark.parametrize("text", ["[]", "[1]", '[{"seed": 0}, null]', "3"])
def test_a_list_of_anything_else_is_refused(tmp_path, text):
    path = tmp_path / "list.json"
    path.write_text(text)
    with pytest.raises(UserError, match="a list of such objects"):
        load_configs(ExperimentConfig, path, [], {})


@pytest.mark.parametrize(
    ("idle", "config", "names"),
    [
        (idle_in_run, ExperimentConfig(method="leace"), {"calibrated_rounds", "au_trade_off"}),
        (idle_in_run, ExperimentConfig(), {"scope", "labels_seen", "au_trade_off"}),
        (idle_in_run, ExperimentConfig(method="retrain"), {"scope", "au_trade_off"}),
        (
            idle_in_run,
            ExperimentConfig(method="d2d", user_embedding="a.npy"),
            {"epochs", "dataset", "retrain_trade_off"},
        ),
        (
            idle_in_run,
            ExperimentConfig(user_embedding="a.npy", eraser="e", output="b.npy"),
            {"epochs", "scope", "calibrated_rounds"},
        ),
        (idle_in_attack, AttackConfig(), {"folds", "audit_users", "au_trade_off"}),
        (idle_in_attack, AttackConfig(protocol="cv", method="u2u"), {"draws", "audit_users"}),
        (idle_in_attack, AttackConfig(attack="audit"), {"protocol", "null", "folds", "draws"}),
    ],
)
def test_keys_that_do_nothing_are_known(idle, config, names):
    found = idle(config)
    assert names <= found.keys()
    heeded = {"method", "user_embedding", "labels", "record", "threads"}
    assert not heeded & found.keys()
    options = METHODS[config.method].options
    assert not options or not {one.name for one in dataclasses.fields(options)} & found.keys()


def test_a_key_that_none_of_a_sweep_heeds_is_said(workspace, capsys):
    np.save("mine.npy", np.random.default_rng(0).normal(size=(40, 3)))
    Path("labels.csv").write_text("gender\n" + "M\nF\n" * 20)
    files = ["user_embedding=mine.npy", "labels=labels.csv"]
    assert main.main([*files, 'method=["leace","barycentre"]', "calibrated_rounds=5"]) == 0
    said = "warning: calibrated_rounds does nothing here: method leace has no such option"
    assert capsys.readouterr().out.count(said) == 1
    assert main.main([*files, 'method=["leace","calibrated"]', "calibrated_rounds=1"]) == 0
    assert "does nothing" not in capsys.readouterr().out
