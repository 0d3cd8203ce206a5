"""An audit as a page for those who have to answer for it: audit.json in words, tables, pictures.

Every number comes from the audit's figures; nothing is computed here but their layout.
"""

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.config import AttackConfig
from utils.messages import audit_verdict, command_for
from utils.pages.parts import Banner, Drawing, Grid, Kind, Part, Section, Tone, literal

INK = "#0a0b0c"
"""Becomes the page's own colour of text, light or dark."""
WORST, OTHER = "#c0392b", "#2e7dbd"

STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

WORDS = {"auc": "AUC", "leakage": "Mean |AUC - 0.5| of the classes"}

LIMITS = (
    "A verdict of no leak found means reduced inference risk, not anonymity: an attacker of "
    "another kind, with more labels, or with other data about the same users, may find more. The "
    "audit speaks of this attribute only, and of the vectors that it was given: backups, caches, "
    "search indexes and models made from them before keep what they hold. A user's membership, or "
    "the interactions themselves, are other questions.",
    "One half of the labelled users trained the attackers. The p-value is exact for these halves; "
    "other halves (`attack_seed`) train other attackers and give other figures.",
)


def audit_page(result: Mapping[str, Any]) -> list[Section]:
    """The page's sections; the first is its title.

    Args:
        result: as in audit.json.
    """
    sections = [
        _summary(result),
        _assumed(result),
        _places(result),
        _curves(result),
        _baselines(result),
        _groups(result),
        _utility(result),
        _edited(result),
        _again(result),
        Section("What this does not show", list(LIMITS)),
    ]
    return [section for section in sections if section.parts]


def _summary(result: Mapping[str, Any]) -> Section:
    verdict, places = result["verdict"], result["places"]
    tried = len(next(iter(places.values()))["attackers"])
    low, high = verdict["interval"]
    if _of_two(result):
        text = (
            f"AUC {verdict['auc']:.3f}: 0.5 is chance, and what is below it is read by turning the "
            f"answer round. 95 % interval of this attacker {low:.3f} to {high:.3f}; picked as the "
            "worst of many on the same users, it looks somewhat better than it is. "
        )
    else:
        text = (
            "A class may be read from above 0.5 or from below it, so the distance from 0.5 counts, "
            "averaged over classes. "
        )
    text += (
        f"The worst of {tried} attackers and {len(places)} places stays within "
        f"{verdict['null_95']:.3f} of 0.5 in 95 of 100 cases where there is nothing to find "
        f"({verdict['permutations']} permutations)."
    )
    beyond = [name for name, row in places.items() if row["leakage"] > verdict["null_95"]]
    if verdict["leaks"] and beyond:
        text += f" Beyond that: {', '.join(map(literal, beyond))}."
    words = literal(audit_verdict(verdict, tried, len(places)))
    kind: Kind = "leaks" if verdict["leaks"] else "ok" if verdict["can_tell"] else "unknown"
    banner = Banner(kind, _capital(words), text)
    title = f"Can {literal(result['attribute'])} be told from {literal(result['title'])}?"
    return Section(title, [banner])


def _assumed(result: Mapping[str, Any]) -> Section:
    users, classes = result["users"], result["classes"]
    counts = ", ".join(f"{literal(name)} {n}" for name, n in users["of_class"].items())
    text = "The attacker sees every vector of the places below"
    if result["trained_on"] == "original":
        text += ", knows from an earlier copy what they were of the users that it learns from,"
    text += (
        f" and the {literal(result['attribute'])} of {users['train']} users (half of those that "
        f"take part), and tells that of the other {users['test']}. Users by class: {counts}. "
    )
    if len(classes) == 2:
        text += f"AUC: how often a user of class {literal(classes[1])} is ranked above another."
    else:
        text += "AUC: one class against all others, averaged over classes; so is |AUC - 0.5|."
    text += " The attacker may know how the vectors were treated, and turn its answer round."
    return Section("What the attacker was assumed to know", [text])


def _places(result: Mapping[str, Any]) -> Section:
    places = result["places"]
    names = list(next(iter(places.values()))["attackers"])
    measure = "auc" if _of_two(result) else "leakage"
    rows: list[list[str]] = []
    tones: list[list[Tone]] = []
    for place, row in places.items():
        cells: list[str] = []
        colours: list[Tone] = []
        for name in names:
            found = row["attackers"][name]
            beyond = found["leakage"] > row["null_95"]
            cells.append(f"{found[measure]:.3f}")
            colours.append("bad" if beyond else "")
        last: Tone = "bad" if row["leaks"] else "good"
        rows.append([literal(place), str(row["dimensions"]), *cells, _number(row["p"])])
        tones.append(["", "", *colours, last])
    table = Grid(["Place", "d", *names, "p"], rows, tones)
    text = (
        f"{WORDS[measure]} on the tested half, a row a place, a column an attacker. Coloured: "
        "farther from 0.5 than the worst attacker of that place gets in 95 of 100 cases by chance; "
        "p: how often chance finds as much as the place's worst attacker. Both are of a place by "
        "itself: of several places one is coloured more often than 5 times in 100, which the "
        "verdict above allows for."
    )
    apart = [
        f"{literal(place)}: {row['apart']['edges']} of {row['apart']['expected']:.0f} expected, "
        f"p = {_number(row['apart']['p'])}"
        for place, row in places.items()
    ]
    unsupervised = (
        "Without any attacker (Friedman and Rafsky): neighbours of different classes in the "
        f"vectors' minimum spanning tree. {'; '.join(apart)}. Fewer: the classes keep to "
        "themselves; more: they were pushed into each other."
    )
    return Section("Where it can be told, and by whom", [text, _dots(result), table, unsupervised])


def _curves(result: Mapping[str, Any]) -> Section:
    parts: list[Part] = []
    verdict, curve = result["verdict"], result["curve"]
    place, attacker = literal(verdict["place"]), verdict["attacker"]
    row = result["places"][verdict["place"]]
    if found := row.get("roc"):

        def draw_roc(axes: Axes) -> None:
            axes.fill_between(found["fpr"], found["low"], found["high"], color=WORST, alpha=0.25)
            axes.plot(found["fpr"], found["tpr"], color=WORST)
            axes.plot([0, 1], [0, 1], color=INK, lw=0.8, ls="--")
            axes.set(xlabel="others accused", ylabel="found", xlim=(0, 1), ylim=(0, 1))

        said = "; ".join(
            f"at most {float(rate):.0%} of the others accused: {one['found']} found "
            f"({one['tpr']:.1%}), {one['accused']} accused ({one['fpr']:.1%})"
            for rate, one in row["attackers"][attacker]["at_fpr"].items()
        )
        caption = (
            f"{place}, {attacker}, turned round where it points the wrong way; 95 % band over "
            f"users. {_capital(said)}."
        )
        parts.append(Drawing(_svg("roc", (4.6, 4.2), draw_roc), caption))
    if points := curve.get("points"):

        def draw_ratios(axes: Axes) -> None:
            for name, colour in zip(curve["attackers"], (WORST, OTHER), strict=False):
                known = [point["known"] for point in points]
                mean, std = ([point["auc"][name][of] for point in points] for of in ("mean", "std"))
                axes.errorbar(
                    known, mean, std, color=colour, marker="o", ms=4, capsize=3, label=name
                )
            axes.axhline(0.5, color=INK, lw=0.8, ls="--")
            axes.set(xlabel="users whose label the attacker knows", ylabel="AUC", xscale="log")
            axes.legend(frameon=False)

        caption = (
            f"{place}: AUC by the number of known labels (classes balanced, {curve['draws']} "
            "draws; bars: their standard deviation)."
        )
        parts.append(Drawing(_svg("curve", (6.2, 3.4), draw_ratios), caption))
    return Section("How well, and how many labels it takes", parts)


def _baselines(result: Mapping[str, Any]) -> Section:
    words = {
        "activity": "how many interactions",
        "popularity": "how popular the items of the history are",
        "history": "the interactions themselves, by truncated SVD",
        "left out": "top lists of the most popular items, the same for all but what a user has",
        "random": "nothing: random vectors",
    }
    rows, tones = [], []
    measure = "auc" if _of_two(result) else "leakage"
    for name, row in result["baselines"].items():
        rows.append([words[name], row["worst"], f"{row[measure]:.3f}", _number(row["p"])])
        tone: Tone = "fair" if row["leaks"] and name != "random" else ""
        tones.append(["", "", tone, tone])
    text = "The same attackers without any embedding; random vectors are there to check them. "
    if len(rows) > 1:
        text += (
            "What the vectors tell beyond this is their own leak; what they tell below it could be "
            "guessed anyway by someone who holds these data."
        )
    else:
        text += "Nothing else is known of the users of a file."
    table = Grid(["What is known", "Worst attacker", WORDS[measure], "p"], rows, tones)
    return Section("What could be told without the embedding", [text, table])


def _groups(result: Mapping[str, Any]) -> Section:
    if not result["groups"]:
        return Section("Who is found", [])
    rows = [
        [
            literal(attribute),
            literal(name),
            str(one["users"]),
            f"{one['auc']:.3f}",
            _interval(one["interval"]),
        ]
        for attribute, groups in result["groups"].items()
        for name, one in groups.items()
    ]
    text = (
        f"The worst attacker's AUC within groups ({literal(result['verdict']['place'])}). Of many "
        "groups some intervals miss 0.5 by chance."
    )
    return Section("Who is found", [text, Grid(["By", "Users", "Tested", "AUC", "95 %"], rows)])


def _utility(result: Mapping[str, Any]) -> Section:
    rows = []
    for metric, found in result["utility"].items():
        groups = {"all users": found["all"], **found["classes"]}
        change = found.get("change", {})
        changes = {"all users": change.get("all"), **change.get("classes", {})}
        for name, one in groups.items():
            row = [metric, literal(name), str(one["users"])]
            row.append(_mean(one, ""))
            if other := changes.get(name):
                row.append(_mean(other, "+"))
            rows.append(row)
    if not rows:
        return Section("Who pays", [])
    paired = any("change" in found for found in result["utility"].values())
    header = ["Metric", "Users", "n", "Mean (95 %)", *(["Change, paired (95 %)"] if paired else [])]
    text = "The recommendations' quality on each user's held-out interaction, by class"
    text += ", and user by user against the original's." if paired else "."
    return Section("Who pays", [text, Grid(header, rows)])


def _edited(result: Mapping[str, Any]) -> Section:
    text = literal(result["treatment"]) + (
        " Search indexes, backups, caches and copies in other systems keep the old vectors until "
        "they are made anew; libraries that refit a user from the history, or propagate vectors "
        "over a graph before serving them, bypass an edited table. Audit what is really served."
    )
    warnings: list[Part] = [
        Banner("leaks", "The run itself warns", _capital(literal(remark)) + ".")
        for remark in result["remarks"]
    ]
    return Section("What was edited, and what was not", [*warnings, text])


def _again(result: Mapping[str, Any]) -> Section:
    command = command_for("attack.py", AttackConfig, result["config"])
    environment = result["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    sums = "; ".join(f"{name} `{one[:16]}`" for name, one in result["checksums"].items())
    commit = (environment["commit"] or "unknown")[:12]
    made_by = (
        f"attack_seed {result['config']['attack_seed']}; {result['seconds']:.0f} s; Python "
        f"{environment['python']}, {packages}; commit `{commit}`. SHA-256: {sums}."
    )
    return Section("How to repeat it", [f"`{command}`", made_by])


def _dots(result: Mapping[str, Any]) -> Drawing:
    places, of_two = result["places"], _of_two(result)

    def draw(axes: Axes) -> None:
        for line, row in enumerate(places.values()):
            bound = row["null_95"]
            left, width = (0.5 - bound, 2 * bound) if of_two else (0, bound)
            axes.barh(line, width, left=left, height=0.6, color=OTHER, alpha=0.25)
            for found in row["attackers"].values():
                colour = WORST if found["leakage"] > bound else OTHER
                x = found["auc"] if of_two else found["leakage"]
                axes.plot(x, line, "o", color=colour, ms=5, alpha=0.85)
        axes.axvline(0.5 * of_two, color=INK, lw=0.8, ls="--")
        axes.set_yticks(range(len(places)), list(places), parse_math=False)
        axes.invert_yaxis()
        axes.set_xlabel(
            "AUC: 0.5 tells nothing, either side tells" if of_two else "mean |AUC - 0.5|"
        )

    caption = (
        "A dot an attacker. The band: where the place's worst attacker lies in 95 of 100 cases if "
        "there is nothing to find."
    )
    return Drawing(_svg("dots", (7.4, 0.9 + 0.45 * len(places)), draw), caption)


def _svg(name: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    """What `draw` draws, as SVG whose ink is the page's, its ids this page's own."""
    content = io.StringIO()
    colours = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style: Any = STYLE | dict.fromkeys(colours, INK) | {"svg.hashsalt": name, "svg.id": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    # matplotlib numbers its groups anew in every file
    return re.sub(r'<g id="[\w.]+_\d+">', "<g>", svg)


def _of_two(result: Mapping[str, Any]) -> bool:
    return len(result["classes"]) == 2


def _number(p: float) -> str:
    return f"{p:.2g}"


def _mean(one: Mapping[str, Any], sign: str) -> str:
    mean = f"{one['mean']:{sign}.4f}"
    if one["low"] is None:
        return mean
    return f"{mean} ({one['low']:{sign}.4f} to {one['high']:{sign}.4f})"


def _interval(pair: list[float]) -> str:
    return f"{pair[0]:.3f} to {pair[1]:.3f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
