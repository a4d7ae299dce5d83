"""What the page says of a comparison of prompts: which is best, and whether that is luck."""

from __future__ import annotations

from typing import Any

from captune.pages.blocks import Beside, Fold, Heading, Paragraph, Section, Tile, Tiles
from captune.pages.sections import PageContext, reliability_block
from captune.pages.sources import RunSource, joined, words
from captune.statistics import SIGNIFICANT
from captune.tables import Column, Estimate, Fraction, Table, numbers
from captune.text import count, decimal, one_line, p_value, percent, points, signed

_CHANGES = 12


def answer(source: RunSource) -> tuple[Any, Tiles | None]:
    """The first lines of the page: a sentence, and the headline number."""
    prompts, best = source.at("prompts"), source.at("best")
    if best is None:
        same = [row["same_as_first"] for row in prompts[1:]]
        lowest = 1 + same.index(min(same))
        said = words(
            "{} were compared on {} images without a truth: the one that differs most from the"
            " first gives the same answer to {} of them.",
            _counted(source), source.figure(count, "images"),
            source.figure(percent, "prompts", lowest, "same_as_first"),
        )  # fmt: skip
        return said, None
    accuracy = source.figure(percent, "prompts", best, "accuracy")
    name = one_line(prompts[best]["template"])
    worse = [i for i, row in enumerate(prompts) if (row["p_holm"] or 0) < SIGNIFICANT and i != best]
    others = len(prompts) - 1 - len(worse)
    said = words("Of {} “{}” does best: {} of {} images.",
                 _counted(source), name, accuracy, source.figure(count, "scored"))  # fmt: skip
    if worse:
        losers = [
            words(
                "“{}” ({} points, p {})", one_line(prompts[i]["template"]),
                source.figure(points, "prompts", i, "difference"),
                source.figure(p_value, "prompts", i, "p_holm"),
            )
            for i in worse[:3]
        ]  # fmt: skip
        more = [words("{} more", str(len(worse) - 3))] if len(worse) > 3 else []
        said += words(" Significantly worse: {}.", joined([*losers, *more]))
    if others:
        verb = "is" if others == 1 else "are"
        said += words(" The other {} {} not significantly different.",
                      source.counted(count, others, "rows with p >= 0.05"), verb)  # fmt: skip
    tile = Tile(
        "accuracy of the best prompt",
        accuracy,
        _accuracy(source, best),
        words("“{}”. It was chosen on these very images, so it flatters a little.", name),
        one_line(
            "top-1, Wilson interval, exact McNemar against the best, Holm-adjusted, weights "
            + str(source.model.get("weights_id"))[:12]
        ),
    )
    return said, Tiles([tile])


def _counted(source: RunSource) -> Any:
    """`4 prompts`, or `4 prompts and their ensemble`."""
    rows = source.at("prompts")
    ensemble = str(rows[-1]["template"]).startswith("ensemble of these ")
    told = source.counted(count, len(rows) - ensemble, "prompts")
    return words("{} prompts and their ensemble" if ensemble else "{} prompts", told)


def _accuracy(source: RunSource, row: int) -> Any:
    """The ends of its interval, of a row of the table of prompts."""
    ends = ("accuracy_low", "accuracy_high")
    if source.at("prompts", row, ends[0]) is None:
        return None
    return tuple(source.figure(percent, "prompts", row, end) for end in ends)


def section(source: RunSource, _context: PageContext) -> Section:
    """All that the page says of one comparison of prompts."""
    part = Section(f"prompts-{source.number}", "Prompts", source.name)
    best = source.at("best")
    if best is None:
        part.blocks.append(_agreement(source))
    else:
        part.blocks.append(_table(source, best))
        calibration = source.at("calibration", best)
        if calibration is not None:
            part.blocks += _calibration(source, best, calibration)
    if source.at("negation"):
        part.blocks += _negation(source)
    if best is not None:
        changes = _changes(source, best)
        if changes.rows:
            part.blocks.append(Fold("Classes that change most", [changes]))
    return part


def tables(source: RunSource) -> list[Table]:
    """The prompts, and what a “not” in them changes."""
    best = source.at("best")
    prompts = _agreement(source) if best is None else _table(source, best)
    return [prompts, *([_denials(source)] if source.at("negation") else [])]


def _table(source: RunSource, best: int) -> Table:
    prompts = source.at("prompts")
    low = min(row["accuracy_low"] for row in prompts)
    high = max(row["accuracy_high"] for row in prompts)
    order = sorted(range(len(prompts)), key=lambda i: (-prompts[i]["accuracy"], i))
    rows = []
    for i in order:
        row = prompts[i]
        ends = (row["accuracy_low"], row["accuracy_high"])
        against: list[Any] = [None, None, None]
        worse = i != best and row["p_holm"] < SIGNIFICANT
        if i != best:
            against = [
                source.figure(points, "prompts", i, "difference"),
                source.figure(p_value, "prompts", i, "p_holm"),
                words("{} / {}", source.figure(count, "prompts", i, "gained"),
                      source.figure(count, "prompts", i, "lost")),
            ]  # fmt: skip
        rows.append(
            [
                one_line(row["template"]) + (" (best)" if i == best else ""),
                Estimate(source.figure(percent, "prompts", i, "accuracy"), _accuracy(source, i)),
                Fraction.between(low, high, row["accuracy"], ends, best=i == best, worse=worse),
                *against,
                source.known(percent, "prompts", i, "ece"),
                *_temperature(source, i),
            ]
        )
    columns = [Column("prompt", wide=True), *numbers("accuracy"), Column("", wide=True)]
    columns += numbers("points vs. best", "p (Holm)", "gained / lost", "ECE", "T", "ECE at T")
    note = (
        "With each accuracy its 95 % interval. points vs. best: accuracy minus that of the best"
        " prompt, in percentage points. p: exact McNemar test against the best on the same images,"
        " Holm-corrected for the number of prompts; below 0.05 the prompts differ. gained / lost:"
        " images that only this prompt, only the best has right. The best was chosen on these"
        " images: its own figure flatters a little. ECE: calibration error, 0 % is best. T: the"
        " temperature that calibrates the model; ECE at T: the error with it (cross-fitted); where"
        " it is no lower, leave the probabilities as they are."
    )
    marked = frozenset({order.index(best)})
    return Table(f"prompts-{source.number}", "Prompts", columns, rows, marked, note)


def _temperature(source: RunSource, row: int) -> list[Any]:
    """The temperature that calibrates a prompt, and the calibration error with it."""
    fitted = source.at("calibration", row)
    if fitted is None or fitted.get("scaled") is None:
        return [None, None]
    place = ("calibration", row)
    return [
        source.figure("{:.2f}".format, *place, "temperature"),
        source.figure(percent, *place, "scaled", "ece"),
    ]


def _agreement(source: RunSource) -> Table:
    rows = [
        [one_line(row["template"]), source.figure(percent, "prompts", i, "same_as_first"),
         Fraction(row["same_as_first"]),
         source.figure(percent, "prompts", i, "mean_confidence")]
        for i, row in enumerate(source.at("prompts"))
    ]  # fmt: skip
    columns = [Column("prompt"), *numbers("same label as the first prompt"), Column("", wide=True)]
    columns += numbers("mean confidence")
    note = "No truth is known (--truth), so there is no accuracy."
    return Table(f"prompts-{source.number}", "Prompts", columns, rows, note=note)


def _calibration(source: RunSource, best: int, calibration: dict[str, Any]) -> list[Any]:
    raw = ("calibration", best, "raw")
    said = words(
        "With the best prompt the probabilities are off by {} on average (ECE over 15 bins;"
        " chance alone would give {}).",
        source.figure(percent, *raw, "ece"), source.figure(percent, *raw, "ece_floor"),
    )  # fmt: skip
    blocks: list[Any] = [
        reliability_block(
            calibration["raw"]["bins"], "Reliability of the best prompt: accuracy by confidence"
        )
    ]
    if calibration.get("scaled") is not None:
        scaled = ("calibration", best, "scaled")
        said += words(
            " A temperature of {} makes it {}, measured on images that the fit did not see.",
            source.figure(decimal, "calibration", best, "temperature"),
            source.figure(percent, *scaled, "ece"),
        )  # fmt: skip
        if calibration["scaled"]["ece"] >= calibration["raw"]["ece"]:
            said += words(" That is no improvement: leave the probabilities as they are.")
        blocks.append(
            reliability_block(
                calibration["scaled"]["bins"], "The same after scaling by a fitted temperature"
            )
        )
    return [
        Heading("How far to believe the probabilities"),
        Paragraph(said),
        Beside(blocks) if len(blocks) > 1 else blocks[0],
    ]


def _negation(source: RunSource) -> list[Any]:
    said = words(
        "Asked with “{}”, it gives the same answer to {} of the images; a model that understands"
        " “not” would give another every time.",
        one_line(source.at("negation", 0, "negated")),
        source.figure(percent, "negation", 0, "same_answer"),
    )  # fmt: skip
    return [Heading("Does it understand “not”?"), Paragraph(said), _denials(source)]


def _denials(source: RunSource) -> Table:
    rows = []
    measures = ("same_answer", "right_answer", "denial_wins", "denial_wins_elsewhere")
    for i, row in enumerate(source.at("negation")):
        known = (source.known(percent, "negation", i, name) for name in measures)
        rows.append([one_line(row["negated"]), *known])
    titles = ("same label", "right label", "“not” preferred", "“not” preferred, other labels")
    columns = [Column("prompt with “not”", wide=True), *numbers(*titles)]
    shares = [row["same_answer"] for row in source.at("negation")]
    same = min(shares)
    most = percent(same) if same == max(shares) else f"at least {percent(same)}"
    note = (
        "Fraction of images. A model that understands “not” shows 0 % in the first three columns"
        f" and 100 % in the last. This one chooses the same label for {most} of the images"
        f"{', so it ignores “not”' if same > 0.5 else ''}. “not” preferred: of the two texts “X”"
        " and “not X”, the one with “not” scores higher. Only prompts without a “no” or “not” of"
        " their own are denied."
    )
    return Table(f"negation-{source.number}", "What “not” changes", columns, rows, note=note)


def _changes(source: RunSource, best: int) -> Table:
    rows = []
    prompts = source.at("prompts")
    for i, changes in enumerate(source.at("class_changes")):
        if i == best:
            continue
        for j, change in enumerate(changes[:_CHANGES]):
            place = ("class_changes", i, j)
            rows.append(
                [
                    one_line(prompts[i]["template"]),
                    one_line(str(change["label"])),
                    source.figure(lambda n: signed(n, 0), *place, "change"),
                    source.figure(count, *place, "images"),
                ]
            )
    columns = [Column("prompt", wide=True), Column("class")]
    columns += numbers("more right than the best", "of images")
    return Table(f"class-changes-{source.number}", "Classes that change", columns, rows)
