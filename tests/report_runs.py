"""Run folders of every job with invented results and generated pictures, for what reports them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captune.runs import RunWriter, read_run
from captune.statistics import wilson
from tests.image_factory import jpeg

HOSTILE_NAME = '"><img src=x onerror=alert(1)>.jpg'
HOSTILE = '</script><script>alert(2)</script><b onclick="x">&amp; {{ 7*7 }} ${1} \'" ‮ 猫'
LABELS = {"7": "red <i>one</i>", "8": "green", "9": "blue & white"}


@dataclass
class Options:
    """What every run of these has."""

    seed: int = 0
    candidates: str | None = None
    top5: list[str] = field(default_factory=list)


MODEL = {"spec": "lite", "weights_id": "ab" * 32, "preprocessing_id": "cd" * 32, "licence": "MIT"}


def images(folder: Path, names: list[str], *, width: int = 48, height: int = 32) -> Path:
    """Generated pictures with these names."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(i, width, height))
    return folder


def classify_run(folder: Path, root: Path, names: list[str], *, known: bool = True) -> Path:
    """Every fourth answer is wrong."""
    ids = list(LABELS)
    right = 0
    with _writer(folder, "classify", root) as run:
        for i, name in enumerate(names):
            truth = ids[i % 3]
            first = ids[(i + (i % 4 == 3)) % 3]
            others = [id for id in ids if id != first]
            sure = 0.4 + 0.5 * (i % 10) / 10
            shares = [sure, 0.7 * (1 - sure), 0.3 * (1 - sure)]
            top = [
                {"id": id, "name": LABELS[id], "probability": share}
                for id, share in zip([first, *others], shares, strict=True)
            ]
            record: dict[str, Any] = {"path": name, "top": top}
            if known:
                record |= {"truth": truth, "truth_name": LABELS[truth]}
                right += first == truth
            run.record(record)
        n = len(names)
        run.metrics = {
            "images": n,
            "labels": 3,
            "scored": n if known else 0,
            "correct": right,
            "prompts": [
                {
                    "template": "a photo of a {}",
                    "accuracy": right / n if known else None,
                    "interval": list(wilson(right, n)) if known else None,
                }
            ],
            "activation": "softmax",
            "skipped": [{"path": HOSTILE_NAME, "reason": "not an image: text"}],
        }
        run.extra["device"] = "cpu"
    return folder


def caption_run(folder: Path, root: Path, captions: dict[str, str]) -> Path:
    """Image name -> its caption."""
    with _writer(folder, "caption", root) as run:
        for i, (name, caption) in enumerate(captions.items()):
            run.record(
                {
                    "path": name,
                    "caption": caption,
                    "ended": True,
                    "tokens": 5,
                    "log_probability": -5.0 - i,
                    "mean_log_probability": -1.0 - i / 10,
                    "words": [{"word": word, "log_probability": -1.0} for word in caption.split()],
                }
            )
        words = sum(len(caption.split()) for caption in captions.values())
        run.metrics = {
            "images": len(captions),
            "ended": len(captions),
            "words_mean": words / len(captions),
            "log_probability_mean": -1.5,
            "skipped": [],
        }
    return folder


def score_run(
    folder: Path,
    root: Path,
    captions: dict[str, str],
    *,
    scores: dict[str, list[float]] | None = None,
    candidates: str = "captions.json",
) -> Path:
    """Image name -> its caption; scores: metric -> a value a caption."""
    found = scores or {"cider": [i / 4 for i in range(len(captions))]}
    with _writer(folder, "score", root, candidates=candidates) as run:
        for i, (name, caption) in enumerate(captions.items()):
            run.record(
                {
                    "image": Path(name).stem,
                    "path": name,
                    "caption": caption,
                    "references": [f"people say {HOSTILE}", f"of {i}"],
                    "scores": {metric: values[i] for metric, values in found.items()},
                }
            )
        run.metrics = {
            "images": len(captions),
            "metrics": {
                metric: {
                    "name": f"{metric}[ptb]",
                    "corpus": sum(values) / len(values),
                    "interval": [min(values), max(values)],
                    "recipe": {"tokenizer": "ptb"},
                }
                for metric, values in found.items()
            },
            "agreement": None,
            "notes": [],
            "inputs": {"candidates": {"path": candidates, "form": "x", "sha256": "ef" * 32}},
        }
    return folder


def tune_run(folder: Path, root: Path, methods: dict[str, dict[str, str]]) -> Path:
    """Method -> image name -> its caption; later methods are better."""
    from captune.jobs.tune import against_best  # it loads torch

    rows, records = [], {}
    for m, (method, captions) in enumerate(methods.items()):
        values = [0.1 * m + 0.2 + 0.01 * (i % 7) for i in range(len(captions))]
        rows.append(_tuned(method, values))
        records[method] = [
            {
                "path": name,
                "image_id": Path(name).stem,
                "caption": caption,
                "ended": True,
                "scores": {"cider": values[i], "bleu_4": 0.1, "clipscore": 0.5},
            }
            for i, (name, caption) in enumerate(captions.items())
        ]
        with _writer(folder / method, "tune", root) as run:
            for record in records[method]:
                run.record(record)
            run.metrics = {"images": len(captions), "tuned": rows[-1]}
    best = list(methods)[-1]
    images = len(methods[best])
    with _writer(folder, "tune", root, keeps=True) as run:
        for record in records[best]:
            run.record(record)
        run.metrics = {
            "images": images,
            "trained_on": 100,
            "best": best,
            "select": "cider",
            "methods": rows,
            "against_best": against_best(
                {method: read_run(folder / method) for method in methods}, best, "cider"
            ),
            "leaked": 0,
            "skipped": [],
            "notes": [],
        }
    return folder


def _tuned(method: str, values: list[float]) -> dict[str, Any]:
    mean = sum(values) / len(values)
    figures = {"cider": mean, "bleu_4": 0.1, "clipscore": 0.5}
    epochs = [{"epoch": e, "loss": 3 - e / 2, "cider": mean * e / 2} for e in (1.0, 2.0)]
    return {
        "method": method,
        "trained": {"bridge.layers": 1000, "tuning": 500},
        "scores": {
            id: {
                "name": f"{id}[ptb]",
                "corpus": value,
                "interval": [0.9 * value, 1.1 * value],
                "recipe": {},
            }
            for id, value in figures.items()
        },
        "best_epoch": 2,
        "val_loss": 2.0,
        "seconds": 12.5,
        "findings": [
            {"about": "leak", "figure": 0.0, "sentence": "none is known", "wrong": False},
            {"about": "attention", "figure": 0.5, "sentence": f"says {HOSTILE}", "wrong": True},
        ],
        "history": {
            "losses": [[0.5, 4.0], [1.0, 3.0], [1.5, 2.5], [2.0, 2.2]],
            "epochs": epochs,
            "stopped_early": False,
        },
        "images": len(values),
    }


def compare_run(folder: Path, root: Path, first: dict[str, str], second: dict[str, str]) -> Path:
    """Two captions an image; the second is better on every other one."""
    records: list[dict[str, Any]] = []
    for i, name in enumerate(first):
        a, b = 0.5, 0.5 + (0.25 if i % 2 else -0.125)
        records.append(
            {
                "image": Path(name).stem,
                "path": name,
                "references": ["by people"],
                "a": {"caption": first[name], "scores": {"cider": a}},
                "b": {"caption": second[name], "scores": {"cider": b}},
            }
        )
    means = {
        side: sum(record[side]["scores"]["cider"] for record in records) / len(records)
        for side in "ab"
    }
    differing = [
        {
            "image": record["image"],
            "path": record["path"],
            "difference": record["b"]["scores"]["cider"] - record["a"]["scores"]["cider"],
            **{
                side: {
                    "caption": record[side]["caption"],
                    "score": record[side]["scores"]["cider"],
                }
                for side in "ab"
            },
            "references": record["references"],
        }
        for record in records
    ]
    verdict = "CIDEr-D: no difference was seen"
    with _writer(folder, "compare", root) as run:
        for record in records:
            run.record(record)
        run.metrics = {
            "images": len(records),
            "a": "a.json",
            "b": "b.json",
            "changed_captions": len(records),
            "metrics": {
                "cider": {
                    "name": "CIDEr-D[ptb]",
                    **{s: {"corpus": means[s], "interval": [0.1, 0.9]} for s in "ab"},
                    "difference": means["b"] - means["a"],
                    "interval": [-0.1, 0.2],
                    "p": 0.2,
                    "p_holm": 0.2,
                    "effect_size": 0.1,
                    "images": {"b_better": 3, "a_better": 3, "equal": 0},
                    "detectable_difference": 0.3,
                    "finding": "unseen",
                }
            },
            "verdicts": {"cider": verdict},
            "contradiction": None,
            "verdict": [verdict],
            "differences": {
                "cider": {
                    "b_better": [one for one in differing if one["difference"] > 0],
                    "a_better": [one for one in differing if one["difference"] < 0],
                }
            },
            "inputs": {
                "a": {"candidates": {"path": "/a.json", "sha256": "a1"}},
                "b": {"candidates": {"path": "/b.json", "sha256": "b1"}},
            },
        }
    return folder


def change(run: Path, name: str, *keys: str | int, value: Any) -> None:
    """Change a value in a JSON file of a run."""
    path = run / name
    content = json.loads(path.read_text())
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content))


def _writer(
    folder: Path, kind: str, root: Path, *, keeps: bool = False, **options: Any
) -> RunWriter:
    return RunWriter(
        folder,
        kind=kind,
        options=Options(**options),
        root=root,
        models=[MODEL | {"method": "lora", "decoder": "lite"}],
        command=["captune", kind, HOSTILE_NAME],
        keeps=keeps,
    )


def explain_run(
    folder: Path, root: Path, captions: dict[str, str], *, size: int = 3, framed: bool = False
) -> Path:
    """A map a word: the nth word looks at the nth place of the grid."""
    import numpy as np

    marks = ["better than chance", "no better than chance", "independent of the image"]
    counted: dict[str, int] = {}
    total = 0
    with _writer(folder, "explain", root) as run:
        for i, (name, caption) in enumerate(captions.items()):
            said = caption.split()
            maps = np.zeros((len(said), size, size), dtype=np.float32)
            for n in range(len(said)):
                maps[n].flat[n % size**2] = 1
            path = run.file_path(f"maps/{i}.npz")
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, maps=maps, words=np.array(said))
            words = [
                {
                    "word": word,
                    "log_probability": -1.0,
                    "faithfulness": {"mark": marks[n % 3], "gain": 1.25},
                }
                for n, word in enumerate(said)
            ]
            for word in words:
                mark = word["faithfulness"]["mark"]  # type: ignore[index]
                counted[mark] = counted.get(mark, 0) + 1
            total += len(said)
            record = {"path": name, "caption": caption, "given": False, "words": words}
            record["maps"] = f"maps/{i}.npz"
            run.record(record | ({"frame": [12.0, 0.0, 36.0, 32.0]} if framed else {}))
        run.metrics = {
            "images": len(captions),
            "words": total,
            "map": {"method": "attention", "layer": 2, "head": "mean"},
            "marks": counted,
            "skipped": [],
        }
    return folder


def faithful_run(folder: Path, root: Path) -> Path:
    """A leaderboard of one map and a control."""

    def row(method: str, height: float) -> dict[str, Any]:
        return {
            "method": method,
            "layer": None,
            "head": None,
            "insertion": height,
            "insertion_interval": [height - 0.1, height + 0.1],
            "pointing": None,
            "pointing_interval": None,
            "images": 8,
            "words": 40,
        }

    report = {
        "title": "reference captions",
        "rows": [row("chefer", 0.7), row("random", 0.5)],
        "verdicts": [{"part": "nouns", "words": 40, "answer": "better"}],
        "sentences": [f"chefer: insertion 0.70 {HOSTILE}", "These maps are better for nouns."],
    }
    with _writer(folder, "faithful", root) as run:
        run.record({"path": "a.jpg"})
        run.metrics = {
            "images": 1,
            "default": {"method": "chefer", "layer": None, "head": None, "sentence": "x"},
            "sentences": report["sentences"],
            "reports": [report],
            "sanity": {"sentences": ["the maps change with the weights"]},
            "skipped": [],
        }
    return folder
