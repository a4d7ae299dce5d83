"""The commands whose outputs are pinned, as they are typed in the folder of the material."""

from __future__ import annotations

from dataclasses import dataclass

_MODEL = "--model models/colours --device cpu"
_TINY = "--max-tokens 16 --device cpu"
_TUNED = f"--model models/captioner {_TINY}"  # the tune's adapter with the weights of captioner.txt


@dataclass(frozen=True)
class Command:
    """words: after `captune`; with `json` they are typed a second time, with --json.

    after: commands that make what it reads. tolerance: by which share a number may differ from the
    recorded one; what training left behind differs more from machine to machine.
    """

    name: str
    words: str
    after: tuple[str, ...] = ()
    json: bool = True
    tolerance: float = 1e-4


_CLASSIFY = f"images --labels labels.json --truth from-name {_MODEL}"
_TUNE = (
    "tune train --captions train.json --val-captions val.json --val-images val"
    " --method lora,adapter --encoder models/colours --decoder models/decoder"
    " --score-model models/colours --set bridge.width=16 --set bridge.heads=2"
    " --set bridge.every=1 --set lora.rank=4 --set adapter.bottleneck=16"
    " --epochs 10 --batch-size 12 --lr 5e-3 --select loss"
)
_SCORE = f"--references val.json --images val {_MODEL} --resamples 500"
_FAITHFUL = (
    "faithful models/captioner --images train --captions train.json --boxes train_boxes.json"
    " --val-captions val.json --val-images val --val-boxes val_boxes.json --limit 6 --beam 1"
    " --minutes 600"
)
TRAINED, MEASURED = 0.05, 0.01

# every run that a page is made of
RUNS = ("classify", "prompts", "tune", "caption", "score", "compare", "explain", "explain-labels",
        "faithful")  # fmt: skip
_FIGURES = {"score": " --figures figures"}

_JOBS = [
    Command(
        "classify",
        f'classify {_CLASSIFY} --prompt "a photo of a {{}}" --prompt "a picture of a {{}}"'
        " --top5 1 --all-probabilities --csv labels.csv --out runs/classify",
    ),
    Command("classify-two", f"classify images/7_0.png val/val_04.png --labels red,green {_MODEL}"),
    Command(
        "prompts",
        f'prompts {_CLASSIFY} --prompt "a photo of a {{}}" --prompt "not a photo of a {{}}"'
        ' --prompt "red red, or {}" --csv prompts.csv --out runs/prompts',
    ),
    Command("prompts-hw3", f"prompts images --labels red,green,blue {_MODEL}"),
    Command("embed", f"embed images --to features.npz {_MODEL}"),
    Command("tune", f"{_TUNE} {_TINY} --out runs/tune", tolerance=TRAINED),
    Command(
        "caption",
        f"caption val {_TUNED} --predictions written.json --out runs/caption",
        after=("tune",),
    ),
    Command(
        "captioners",
        f"caption val {_TUNED} --model models/blind --references val.json --metrics bleu_4,cider"
        " --to said.csv --out runs/captioners",
        after=("tune",),
    ),
    Command("caption-one", f"caption val/val_01.png --model runs/tune {_TINY}", after=("tune",),
            tolerance=TRAINED),
    Command("score", f"score good.json {_SCORE} --per-image images.csv --out runs/score"),
    Command("score-plain", "score poor.json --references val.json --metrics cider --no-interval"),
    Command("verify-score", "verify runs/score", after=("score",)),
    Command(
        "compare",
        f"compare poor.json good.json {_SCORE} --top 2 --csv both.csv --out runs/compare",
    ),
    Command("compare-same", "compare good.json good.json --references val.json --metrics rouge_l"),
    Command("rank", "rank runs/score --by cider --top 2 --out ranked", after=("score",)),
    Command("faithful", f"{_FAITHFUL} {_TINY} --out runs/faithful", after=("tune",),
            tolerance=MEASURED),
    Command(
        "explain",
        f"explain val/val_01.png val/val_05.png {_TUNED} --out runs/explain",
        after=("tune", "faithful"), tolerance=MEASURED,
    ),
    Command(
        "explain-words",
        f'explain val/val_05.png {_TUNED} --caption "a black spot on a blue wall" --words spot'
        " --against square --method occlusion --faithfulness none",
        after=("tune",),
    ),
    Command(
        "explain-labels",
        f"explain val/val_01.png val/val_05.png --labels red,green,blue {_MODEL}"
        " --out runs/explain-labels",
    ),
]  # fmt: skip
_PAGES = [
    Command(
        f"report-{kind}",
        f"report runs/{kind} --out pages/{kind}.html{_FIGURES.get(kind, '')}",
        after=(kind,),
        json=False,
        tolerance={"tune": TRAINED, "faithful": MEASURED, "explain": MEASURED}.get(kind, 1e-4),
    )
    for kind in RUNS
]
_REST = [
    Command(
        "report",
        f"report {' '.join(f'runs/{kind}' for kind in RUNS)} --out pages/all.html --top 1"
        ' --title "All of <it>" --published dlcv-hw3',
        after=RUNS,
        tolerance=TRAINED,
    ),
    Command("verify-page", "verify pages/score.html", after=("report-score",)),
    Command("models", "models"),
    Command("cache", "cache", after=tuple(job.name for job in _JOBS)),
    Command(
        "reproduce",
        "reproduce dlcv-hw3 --data hw3 --dry-run --lite --out runs/hw3",
    ),
]  # fmt: skip
COMMANDS = {command.name: command for command in (*_JOBS, *_PAGES, *_REST)}

# what is refused: each is a sentence on standard error and status 2
MISTAKES = (
    "",
    "clasify images",
    "classify images",
    "classify nowhere --labels a,b",
    "classify images/7_text.png --labels red,green --model models/colours",
    "classify images --labels labels.json --model models/nothing",
    "classify images --labels gone.txt --model models/colours",
    "classify images --labels red --model models/colours --truth from-folder",
    "classify images --labels labels.json --out train",
    'classify images --labels labels.json --prompt "a photo" --model models/colours',
    'prompts images --labels labels.json --prompt "a {}"',
    "embed images --to features.txt",
    "tune train --captions train.json",
    "tune train --captions train.json --val-captions val.json --out runs/new --method laura",
    "tune train --captions train.json --val-captions val.json --val-images val --out runs/new"
    " --tags cat,dog",
    "caption val --model runs/classify",
    "caption val --model nowhere",
    "caption val --beam 0",
    "score good.json --references train.json",
    "score good.json --references val.json --metrics spice",
    "score good.json",
    "compare good.json nowhere.json --references val.json",
    "compare good.json train.json --references val.json",
    "rank runs/classify",
    "rank runs/score --by meteor",
    "explain val --model nowhere",
    "explain val --labels red,green --layer 2 --model models/colours",
    "faithful nowhere --images val --captions val.json --out runs/f",
    "faithful runs/tune --images val --captions val.json --out runs/f --minutes 0",
    "report runs/classify",
    "report nowhere --out pages/x.html",
    "verify good.json",
    "models fetch",
    "cache --limit many",
    "reproduce dlcv-hw4 --data hw3 --out runs/x",
)
MISTAKES_NEED = ("classify", "score", "tune")
