import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
from matplotlib.axes import Axes
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

import main
from utils import figures
from utils.audit.leakage import predictions
from utils.audit.protocols import Protocol, balanced_users
from utils.audit.scores import out_of_sample
from utils.config import AttackConfig
from utils.figures import TradeOffPoint

PROJECT = Path(__file__).resolve().parents[1]
CLASSES = ("F", "M")
DIMENSION = 3


@pytest.fixture
def labels() -> np.ndarray:
    """20 of class 0, 50 of class 1, 5 unknown."""
    return np.repeat([0, 1, -1], [20, 50, 5])


@pytest.fixture
def planted(labels: np.ndarray) -> np.ndarray:
    """(75, 6) noise in which one dimension tells the classes apart."""
    embedding = np.random.default_rng(0).normal(size=(len(labels), 6)).astype(np.float32)
    embedding[labels == 1, DIMENSION] += 4
    return embedding


def test_separation_is_cohens_d_for_two_classes():
    embedding = np.array([[0.0], [2.0], [5.0], [7.0], [99.0]])
    labels = np.array([0, 0, 1, 1, -1])  # means 1 and 6; squared deviations 1, 1, 1, 1; N - C = 2
    np.testing.assert_allclose(figures.class_separation(embedding, labels), 5 / np.sqrt(2))


def test_separation_of_three_classes_takes_the_furthest_means():
    embedding = np.array([[0.0], [2.0], [3.0], [5.0], [10.0], [12.0]])
    labels = np.array([0, 0, 1, 1, 2, 2])
    np.testing.assert_allclose(figures.class_separation(embedding, labels), 10 / np.sqrt(2))


def test_separation_without_spread():
    constant, label_itself = [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]
    embedding = np.array([constant, label_itself]).T
    np.testing.assert_array_equal(
        figures.class_separation(embedding, np.array([0, 0, 1, 1])), [0, np.inf]
    )


def test_most_telling_dimension_is_the_planted_one(planted: np.ndarray, labels: np.ndarray):
    assert figures.most_telling_dimension(planted, labels) == DIMENSION
    scaled = planted * np.array([100, 1, 1, 0.01, 1, 1])  # scale alone tells nothing
    assert figures.most_telling_dimension(scaled, labels) == DIMENSION


def histograms(planted: np.ndarray, labels: np.ndarray) -> list[Axes]:
    """Axes of two dimensions x three methods, the second method a needle."""
    embeddings = {"Original": planted, "U2U-R": planted / 50, "D2D-R": planted + 1}
    rng = np.random.default_rng(0)
    return figures.dimension_histograms(embeddings, labels, CLASSES, [DIMENSION, 0], rng).get_axes()


def test_histograms_down_sample_the_larger_class(planted: np.ndarray, labels: np.ndarray):
    for axes in histograms(planted, labels):
        assert [stairs.get_data().values.sum() for stairs in axes.patches] == [20, 20]


def test_histograms_show_the_same_users_in_every_panel(planted: np.ndarray, labels: np.ndarray):
    original, _, shifted, *_ = histograms(planted, labels)
    means = [[line.get_xdata()[0] for line in axes.lines] for axes in (original, shifted)]
    np.testing.assert_allclose(np.array(means[0]) + 1, means[1], rtol=1e-5)


def test_histograms_of_a_row_share_bins_and_range(planted: np.ndarray, labels: np.ndarray):
    axes = histograms(planted, labels)
    assert len(axes) == 6
    for row in (axes[:3], axes[3:]):
        edges = [stairs.get_data().edges for panel in row for stairs in panel.patches]
        assert len(edges[0]) == figures.BINS + 1
        np.testing.assert_allclose(edges, [edges[0]] * 6)
        assert len({panel.get_xlim() for panel in row}) == 1
    assert axes[0].get_xlim() != axes[3].get_xlim()


def test_only_a_needle_is_magnified(planted: np.ndarray, labels: np.ndarray):
    axes = histograms(planted, labels)
    assert [len(panel.child_axes) for panel in axes] == [0, 1, 0, 0, 1, 0]


def test_colors_of_classes_differ():
    for count in (2, 7, 8, 21):
        assert len(set(figures.class_colors(count))) == count


def test_tsne_is_seeded(planted: np.ndarray):
    places = figures.tsne(planted, seed=1)
    assert places.shape == (len(planted), 2)
    np.testing.assert_array_equal(places, figures.tsne(planted, seed=1))


def test_tsne_panels_show_truth_and_predictions(planted: np.ndarray, labels: np.ndarray):
    shown = balanced_users(labels, np.random.default_rng(0))
    guess = np.full(len(labels), -1)
    guess[shown] = 1
    right = np.full(len(labels), -1)
    right[shown] = labels[shown]
    said = {"Original": {"MLP": guess, "XGB": right}}
    axes = figures.prediction_tsne({"Original": planted}, said, labels, CLASSES, seed=0).get_axes()
    assert [panel.get_xlabel() for panel in axes] == ["", "50% right", "100% right"]
    colors = [panel.collections[0].get_facecolors() for panel in axes]
    assert [len(of_panel) for of_panel in colors] == [40, 40, 40]
    assert [len(np.unique(of_panel, axis=0)) for of_panel in colors] == [2, 1, 2]


def test_predictions_are_made_for_every_balanced_user_by_others(
    planted: np.ndarray, labels: np.ndarray
):
    protocol = Protocol.of(AttackConfig(protocol="cv", repeats=1))

    def say(embedding, attacker):
        found = out_of_sample(embedding, labels, [attacker], protocol)
        return predictions(found[attacker], len(labels))

    predicted = say(planted, "svm")
    known = predicted >= 0
    assert np.bincount(labels[known]).tolist() == [20, 20]
    assert np.mean(predicted[known] == labels[known]) > 0.85
    # a user's number gives the label away only to who was trained on that very user
    rng = np.random.default_rng(0)
    private = rng.normal(size=(len(labels), 6))
    guessed = say(private, "xgb")
    assert abs(np.mean(guessed[known] == labels[known]) - 0.5) < 0.25


def write_run(folder: Path, method: str, alpha: float, auc: float, attribute: str = "gender"):
    folder.mkdir(parents=True)
    config = {
        "method": method,
        "regularizer": "frobenius",
        "au_trade_off": alpha,
        "attribute": attribute,
    }
    scores = {"attackers": {"mlp": {"auc": {"mean": auc}}}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps({"test": {"NDCG@10": 0.3}}))
    (folder / "attack.json").write_text(json.dumps({"gender/shadow": scores}))


def test_trade_off_points_of_the_runs_that_count(tmp_path: Path):
    write_run(tmp_path / "d2d" / "alpha-0.01" / "seed-0", "d2d", 1e-2, 0.6)
    write_run(tmp_path / "d2d" / "seed-0", "d2d", 1e-6, 0.5)
    write_run(tmp_path / "d2d" / "seed-0.1", "d2d", 1e-6, 0.9)  # kept with other settings
    write_run(tmp_path / "d2d" / "seed-1", "d2d", 1e-6, 0.9)
    write_run(tmp_path / "d2d" / "age" / "seed-0", "d2d", 1e-6, 0.9, "age")
    write_run(tmp_path / "original" / "seed-0", "original", 1e-6, 0.7)
    write_run(tmp_path / "u2u" / "seed-0", "u2u", 1e-6, 0.55)
    (tmp_path / "u2u" / "seed-0" / "attack.json").unlink()
    points = figures.trade_off_points(
        tmp_path, {"u2u": "U2U-R", "d2d": "D2D-R"}, "gender", "shadow", 0
    )
    assert points == [
        TradeOffPoint("D2D-R", "frobenius", 1e-6, "mlp", 0.5, 0.3),
        TradeOffPoint("D2D-R", "frobenius", 1e-2, "mlp", 0.6, 0.3),
    ]


def test_trade_off_labels_alphas_and_merges_those_that_touch():
    def point(method: str, alpha: float, auc: float, ndcg: float) -> TradeOffPoint:
        return TradeOffPoint(method, "frobenius", alpha, "mlp", auc, ndcg)

    points = [
        point("U2U-R", 1e-6, 0.52, 0.25),
        point("U2U-R", 1e-2, 0.52, 0.25),
        point("D2D-R", 1e-6, 0.46, 0.33),
        point("D2D-R", 1e-2, 0.60, 0.34),
    ]
    u2u, d2d = figures.trade_off(points, [point("Original", 1e-6, 0.68, 0.344)]).get_axes()
    assert [text.get_text() for text in u2u.texts] == ["1e-6 to 1e-2"]
    assert [text.get_text() for text in d2d.texts] == ["1e-6", "1e-2"]
    assert [u2u.get_title("left"), d2d.get_title("left")] == ["U2U-R", "D2D-R"]
    assert u2u.get_ylim() == d2d.get_ylim()


def test_saved_pictures_are_small(tmp_path: Path, planted: np.ndarray, labels: np.ndarray):
    users = np.repeat(labels, 10)
    embedding = np.random.default_rng(0).normal(size=(len(users), 6))
    figure = figures.dimension_histograms(
        {"Original": embedding}, users, CLASSES, range(6), np.random.default_rng(0)
    )
    path = figures.save(figure, tmp_path / "new" / "figure.png")
    assert path.stat().st_size < 150_000
    with Image.open(path) as picture:
        assert picture.format == "PNG"


@pytest.fixture
def notebook(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> NotebookClient:
    """The notebook, to be executed in a clean kernel in the workspace."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    return NotebookClient(
        nbformat.read(PROJECT / "generate_embedding.ipynb", as_version=4),
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(workspace)}},
    )


def run_cells(notebook: NotebookClient) -> None:
    for number, cell in enumerate(notebook.nb.cells):
        notebook.execute_cell(cell, number)


def outputs(notebook: NotebookClient) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.nb.cells for output in cell.get("outputs", [])]


@pytest.mark.thorough
def test_notebook_names_the_command_that_makes_a_missing_run_and_draws_finished_ones(
    workspace: Path, notebook: NotebookClient
):
    """In one kernel, since its start is most of what this costs."""
    with notebook.setup_kernel():
        with pytest.raises(CellExecutionError):
            run_cells(notebook)
        (output,) = outputs(notebook)
        folder = Path("exp_results", "ncf", "ml-100k", "original", "seed-0")
        assert output["text"] == f"error: {folder} holds no finished run; first: python main.py\n"
        short = ["epochs=1", "batch_size=2048", "num_ng=1", "embedding_size=8"]
        short += ["device=cpu", "threads=1", "unlearn_steps=20"]
        assert main.main([*short, 'method=["original","u2u","d2d"]']) == 0
        run_cells(notebook)
    shown = outputs(notebook)
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    assert [line.split(" '")[0] for line in shown[-1]["text"].splitlines()] == [
        "No runs with several alphas yet; these two commands make them:",
        "python main.py",
        "python attack.py",
    ]
    names = {path.name for path in (workspace / "exp_results" / "notebook").iterdir()}
    assert names == {
        f"ncf-ml-100k-gender-seed-0-frobenius-{kind}.png"
        for kind in ("histogram", "histograms", "tsne")
    }


def test_notebook_is_committed_without_outputs():
    notebook = nbformat.read(PROJECT / "generate_embedding.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert notebook.metadata.kernelspec.name == "python3"
