"""captune and its peers on the same images and the same weights, in one process and one run.

    python benchmarks/classify.py            about 10 minutes on 2 cores
    python benchmarks/classify.py --quick    about a minute and a half, for a first look

A random-weight CLIP ViT-B/32 classifies generated JPEGs of 224 to 256 pixels against 100 labels.
The ways take turns on chunks of the images, in an order that rotates, and every ratio is taken
within one chunk: what else the machine does in the meantime hits all of them. Models are loaded and
captune's and open_clip's prompts are encoded beforehand; the pipeline cannot (it encodes them with
each batch). Reading, hashing, decoding, the forward pass, scoring and saving to the cache count.
Where the processor multiplies bfloat16 in hardware, captune runs with --dtype bfloat16, too.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import pipeline

from captune.features.cache import FeatureCache
from captune.models.devices import has_bfloat16_units
from captune.models.encoders import ImageTextModel
from captune.models.load import load_image_text_model
from captune.zeroshot.classifier import ZeroShotClassifier
from limits import matmul_gflops, measured, timed
from synthetic import NAME, machine, write_clip, write_images

BATCH = 32
# one pass of ViT-B/32's image side: multiply-adds of its matrices for 50 tokens, twice
GFLOP_PER_IMAGE = 8.8
TEMPLATE = "a photo of a {}."


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    arguments = parser.parse_args()
    logging.getLogger("captune").setLevel(logging.ERROR)
    plan = QUICK if arguments.quick else Plan()
    with tempfile.TemporaryDirectory(prefix="captune-benchmark-") as folder:
        return measured(lambda: measure(Path(folder), plan), show, as_json=arguments.json)


@dataclass(frozen=True)
class Plan:
    """How much of everything; at_one and at_eight: images a round for the slow pipeline."""

    images: int = 2000
    rounds: int = 8
    label_rounds: int = 12
    at_one: int = 8
    at_eight: int = 32


QUICK = Plan(images=256, rounds=2, label_rounds=4, at_one=4, at_eight=16)


def measure(folder: Path, plan: Plan) -> dict[str, Any]:
    """All figures."""
    count, rounds, at_one, at_eight = plan.images, plan.rounds, plan.at_one, plan.at_eight
    images, writing_s = timed(lambda: write_images(folder / "images", count))
    size = sum(path.stat().st_size for path in images) / count
    print(f"{count} JPEGs, {size / 1e3:.0f} kB each, written in {writing_s:.0f} s", flush=True)
    file, peer_folder = write_clip(folder / "clip")
    contenders = Contenders(folder, file, peer_folder)
    print(f"loaded and warmed up: {contenders.preparation}", flush=True)

    rates: dict[str, list[float]] = {}
    chunk = count // rounds
    for number in range(rounds):
        part = images[number * chunk : (number + 1) * chunk]
        ways: list[tuple[str, Callable[[], object], int]] = [
            ("bare forward", contenders.bare_forward(part), len(part)),
            ("captune, cold", partial(contenders.captune, part), len(part)),
            (
                "open_clip + DataLoader",
                partial(contenders.open_clip_loop, part),
                len(part),
            ),
            ("pipeline, batch 8", partial(contenders.pipeline, part[:at_eight], 8), at_eight),
        ]
        if number % 2 == 0:
            ways.append(
                ("pipeline, batch 1", partial(contenders.pipeline, part[:at_one], 1), at_one)
            )
        if contenders.halved is not None:
            ways.append(
                (
                    "captune, cold, --dtype bfloat16",
                    partial(contenders.captune, part, halved=True),
                    len(part),
                )
            )
        turn = number % len(ways)
        for name, run, number_of_images in ways[turn:] + ways[:turn]:
            seconds = timed(run)[1]
            rates.setdefault(name, []).append(number_of_images / seconds)
        seconds = timed(partial(contenders.captune, part))[1]
        rates.setdefault("captune, warm", []).append(len(part) / seconds)
        done = ", ".join(f"{name} {values[-1]:.1f}" for name, values in rates.items())
        print(f"round {number + 1}/{rounds}, images/s: {done}", flush=True)
    whole_warm = [count / timed(lambda: contenders.captune(images))[1] for _ in range(3)]
    agreement = contenders.agreement(images[:at_eight])
    peak = matmul_gflops(repeats=20)
    best_pipeline = max(("pipeline, batch 1", "pipeline, batch 8"), key=lambda n: median(rates[n]))
    bare = median(rates["bare forward"])
    return {
        "images": count,
        "mean_file_bytes": round(size),
        "machine": machine(),
        "preparation_s": contenders.preparation,
        "images_per_s": rates,
        "warm_all_images_per_s": whole_warm,
        "pipeline_subset_per_round": {"batch 1": at_one, "batch 8": at_eight},
        "best_pipeline": best_pipeline,
        "matmul_gflops": peak,
        "bare_gflops": bare * GFLOP_PER_IMAGE,
        "largest_logit_difference": agreement,
        "bfloat16_off_by": contenders.moved(images[:at_eight]),
        "labels": label_scaling(contenders, images, plan.label_rounds),
    }


class Contenders:
    """Every way to classify, loaded and warmed up."""

    def __init__(self, folder: Path, file: Path, peer_folder: Path) -> None:
        self.labels = [f"thing number {i}" for i in range(100)]
        self.preparation: dict[str, float] = {}
        # "openai" is the tag whose preprocessing and architecture the file is given
        spec = f"open_clip:{NAME}/openai@{file}"
        self.model, self.preparation["captune: load"] = timed(
            lambda: load_image_text_model(spec, device="cpu", dtype="float32")
        )
        self.cache = FeatureCache(folder / "cache")
        self.classifier, self.preparation["captune: 100 prompts"] = timed(
            lambda: self.classifier_of(self.labels, self.cache)
        )
        self.halved: ZeroShotClassifier | None = None
        if has_bfloat16_units():
            halved = load_image_text_model(spec, device="cpu", dtype="bfloat16")
            self.halved = self.classifier_of(self.labels, self.cache, halved)
        (self.peer, _, self.preprocess), self.preparation["open_clip: load"] = timed(
            lambda: open_clip.create_model_and_transforms(NAME, pretrained=str(file))
        )
        self.peer.eval()
        self.text, self.preparation["open_clip: 100 prompts"] = timed(self._open_clip_text)
        self.pipe, self.preparation["pipeline: load"] = timed(
            lambda: pipeline("zero-shot-image-classification", str(peer_folder), device="cpu")
        )
        self.preparation = {name: round(s, 2) for name, s in self.preparation.items()}
        warm_up = torch.zeros(BATCH, 3, 224, 224)
        with torch.inference_mode():
            for _ in range(2):
                self.model.image.module(warm_up)
                self.peer.encode_image(warm_up)

    def classifier_of(
        self,
        labels: Sequence[str],
        cache: FeatureCache | bool,
        model: ImageTextModel | None = None,
    ) -> ZeroShotClassifier:
        """captune's classifier over a loaded model: the one in float32 if no other is given."""
        return ZeroShotClassifier(
            labels, model=model or self.model, prompts=[TEMPLATE], batch_size=BATCH, cache=cache
        )

    def bare_forward(self, paths: Sequence[Path]) -> Callable[[], None]:
        """The image side alone; the pixels are made here, before the clock starts."""
        transform = self.model.image.transform
        pixels = [transform(Image.open(path).convert("RGB")) for path in paths]
        batches = [torch.stack(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH)]

        def run() -> None:
            with torch.inference_mode():
                for batch in batches:
                    self.model.image.module(batch)

        return run

    def captune(self, paths: Sequence[Path], *, halved: bool = False) -> list[str]:
        """The three lines of captune's README. halved: in bfloat16."""
        classifier = self.halved if halved and self.halved else self.classifier
        return [prediction.label for prediction in classifier.classify(paths)]

    def open_clip_loop(self, paths: Sequence[Path]) -> list[str]:
        """As open_clip's own evaluation: its preprocessing in DataLoader workers, one a core."""
        loader = DataLoader(
            Images(paths, self.preprocess), batch_size=BATCH, num_workers=torch.get_num_threads()
        )
        found = []
        with torch.inference_mode():
            for pixels in loader:
                features = self.peer.encode_image(pixels, normalize=True)
                probabilities = (self.peer.logit_scale.exp() * features @ self.text.T).softmax(-1)
                found += [self.labels[i] for i in probabilities.argmax(-1).tolist()]
        return found

    def pipeline(self, paths: Sequence[Path], batch_size: int) -> list[str]:
        """transformers' pipeline, the labels handed over as its documentation does."""
        answers = self.pipe(
            [str(path) for path in paths],
            candidate_labels=self.labels,
            hypothesis_template=TEMPLATE,
            batch_size=batch_size,
        )
        return [answer[0]["label"] for answer in answers]

    def moved(self, paths: Sequence[Path]) -> float | None:
        """How far features in bfloat16 are off those in float32, of their length: the mean."""
        if self.halved is None:
            return None
        transform = self.model.image.transform
        pixels = torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])
        own, halved = (m.image.encode(pixels).float() for m in (self.model, self.halved.model))
        return float(((own - halved).norm(dim=1) / own.norm(dim=1)).mean())

    def agreement(self, paths: Sequence[Path]) -> float:
        """Largest difference of a logit between captune and transformers' model."""
        pictures = [Image.open(path).convert("RGB") for path in paths]
        pixels = torch.stack([self.model.image.transform(picture) for picture in pictures])
        features = self.model.image.encode(pixels).numpy()
        ours = self.model.logits(features, self.classifier.text_features[0])
        texts = [TEMPLATE.format(label) for label in self.labels]
        tokens = self.pipe.tokenizer(texts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            theirs = self.pipe.model(pixel_values=pixels, **tokens).logits_per_image
        return float(np.abs(ours - theirs.numpy()).max())

    def _open_clip_text(self) -> Tensor:
        tokens = open_clip.get_tokenizer(NAME)([TEMPLATE.format(label) for label in self.labels])
        with torch.inference_mode():
            features: Tensor = self.peer.encode_text(tokens, normalize=True)
        return features


class Images(Dataset[Tensor]):
    """Images for a DataLoader."""

    def __init__(self, paths: Sequence[Path], preprocess: Callable[[Image.Image], Tensor]) -> None:
        self.paths = paths
        self.preprocess = preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.preprocess(Image.open(self.paths[index]).convert("RGB"))


def _classify_all(classifier: ZeroShotClassifier, images: Sequence[Path]) -> object:
    return list(classifier.classify(images))


def label_scaling(contenders: Contenders, images: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Time an image with 500 and with 1,000 labels, on the same images in turn, nothing cached."""
    words = [f"object {i}" for i in range(1000)]
    classifiers = {n: contenders.classifier_of(words[:n], contenders.cache) for n in (500, 1000)}
    scoring_us = {}
    features = np.random.default_rng(0).standard_normal((BATCH, 512)).astype(np.float32)
    for n, classifier in classifiers.items():
        repeats = [timed(partial(classifier.probabilities, features))[1] for _ in range(300)]
        scoring_us[n] = median(repeats) / BATCH * 1e6
        classifier.cache = None
    milliseconds: dict[int, list[float]] = {500: [], 1000: []}
    for number in range(rounds):
        part = images[number * BATCH : (number + 1) * BATCH]
        # ABBA: a machine that slows down or speeds up hits both alike
        seconds = {500: 0.0, 1000: 0.0}
        for n in (500, 1000, 1000, 500):
            seconds[n] += timed(partial(_classify_all, classifiers[n], part))[1]
        for n, total in seconds.items():
            milliseconds[n].append(total / 2 / len(part) * 1e3)
    differences = np.subtract(milliseconds[1000], milliseconds[500])
    draws = np.random.default_rng(0).choice(differences, (10_000, rounds)).mean(axis=1)
    return {
        "ms_per_image": {n: median(values) for n, values in milliseconds.items()},
        "difference_ms": float(differences.mean()),
        "interval_ms": [float(np.quantile(draws, q)) for q in (0.025, 0.975)],
        "scoring_only_us": scoring_us,
    }


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def show(result: dict[str, Any]) -> None:
    """A table for people, in Markdown."""
    rates = result["images_per_s"]
    bare = rates["bare forward"]
    best = median(rates[result["best_pipeline"]])
    about = result["machine"]
    print()
    print(
        f"{result['images']} JPEGs of {result['mean_file_bytes'] / 1e3:.0f} kB, CLIP ViT-B/32 with "
        f"random weights, 100 labels; {about['cores']} cores ({about['processor']}), "
        f"torch {about['torch']}, transformers {about['transformers']}, "
        f"open_clip {about['open_clip']}, load {about['load']:.1f}; {result['seconds']} s in all"
    )
    print()
    print("| | images/s | of the bare forward (spread) | times the best pipeline |")
    print("|---|---|---|---|")
    for name, values in rates.items():
        # batch 1 ran in every second round
        step = 2 if len(values) < len(bare) else 1
        ratios = [value / base for value, base in zip(values, bare[::step], strict=True)]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name} | {median(values):.1f} | {spread} | {median(values) / best:.2f} |")
    warm = median(result["warm_all_images_per_s"])
    print(f"| captune, warm, all in one call | {warm:.0f} | | {warm / best:.0f} |")
    print()
    print(
        f"matmul peak {result['matmul_gflops']:.0f} GFLOP/s; the bare forward reaches "
        f"{result['bare_gflops']:.0f} ({result['bare_gflops'] / result['matmul_gflops']:.0%}). "
        f"The pipeline ran on {result['pipeline_subset_per_round']} images a round. captune's and "
        f"transformers' logits differ by at most {result['largest_logit_difference']:.1e}."
    )
    if result["bfloat16_off_by"] is not None:
        print(f"Features in bfloat16 are off by {result['bfloat16_off_by']:.1%} of their length.")
    labels = result["labels"]
    low, high = labels["interval_ms"]
    print(
        f"Labels: {labels['ms_per_image'][500]:.2f} ms an image with 500, "
        f"{labels['ms_per_image'][1000]:.2f} ms with 1,000; difference "
        f"{labels['difference_ms']:+.2f} ms (95 % interval {low:+.2f} to {high:+.2f}). "
        f"Scoring alone: {labels['scoring_only_us'][500]:.0f} and "
        f"{labels['scoring_only_us'][1000]:.0f} us an image."
    )


if __name__ == "__main__":
    sys.exit(main())
