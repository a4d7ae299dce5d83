"""config.json of a captioner, the run that it is a part of, and what lies beside it."""

from __future__ import annotations

from typing import Any

from tests.hostile.model_folders import (
    BIG,
    CAPTIONER,
    CONFIG,
    STORE,
    Change,
    Hostile,
    chooses,
    edit,
    every,
    header,
    known_words,
    of_first,
    put,
    run_of,
    several,
    short,
    special,
    spoil,
    tensors,
)


def captioner_cases() -> list[Hostile]:
    path = f"{CAPTIONER}/{CONFIG}"
    bridge, method = ("bridge", "config"), ("method", "config")
    grid, decoder, image = ("grid",), ("decoder",), ("image_encoder",)
    other_types: tuple[Any, ...] = (None, [], 3, "x", {})
    changes: list[tuple[tuple[str, ...], Any, str]] = [
        *(
            ((key,), value, key)
            for key in ("bridge", "method", "grid", "decoder", "image_encoder")
            for value in other_types
        ),
        (("schema",), 99, "schema"),
        (("schema",), "1", "schema"),
        (("schema",), None, "schema"),
        (("max_tokens",), "many", "max_tokens"),
        (("max_tokens",), -1, "max_tokens"),
        (("max_tokens",), 10**30, "max_tokens"),
        ((*bridge, "width"), BIG, "width|weights"),
        ((*bridge, "width"), 10**30, "width"),
        ((*bridge, "width"), 0, "width"),
        ((*bridge, "width"), -16, "width"),
        ((*bridge, "width"), 16.0, "width"),
        ((*bridge, "width"), "16", "width"),
        ((*bridge, "width"), None, "width"),
        ((*bridge, "heads"), 7, "heads"),
        ((*bridge, "heads"), -1, "heads"),
        ((*bridge, "heads"), BIG, "heads"),
        ((*bridge, "every"), 0, "every"),
        ((*bridge, "every"), 2, "weights"),
        ((*bridge, "last"), -3, "last"),
        ((*bridge, "dropout"), 7.5, "dropout"),
        ((*bridge, "dropout"), "much", "dropout"),
        ((*bridge, "gain"), "x", "gain"),
        ((*bridge, "entry"), "yes", "entry"),
        ((*bridge, "bias"), True, "weights"),
        ((*bridge, "colour"), 3, "colour"),
        (("bridge", "name"), "../../evil", "evil"),
        (("bridge", "name"), "prefix", "setting|weights"),
        (("bridge", "name"), ["x"], "name"),
        (("method", "name"), "dora", "weights"),
        (("method", "name"), "_peft", "_peft"),
        (("method", "name"), "os.system", "os.system"),
        ((*method, "rank"), BIG, "rank|weights"),
        ((*method, "rank"), -1, "rank"),
        ((*method, "rank"), 2.5, "rank"),
        ((*method, "alpha"), 10**400, "alpha|number"),
        ((*method, "alpha"), {"a": 1}, "alpha"),
        ((*method, "targets"), "everything", "targets"),
        ((*method, "targets"), ["all"], "targets"),
        ((*method, "dropout"), -0.5, "dropout"),
        ((*grid, "tokens"), BIG, "grid|tokens"),
        ((*grid, "channels"), BIG, "grid|channels"),
        ((*grid, "tokens"), -4, "tokens"),
        ((*grid, "rows"), 5, "grid|rows"),
        ((*grid, "rows"), "x", "rows"),
        ((*grid, "depth"), 1, "depth"),
        ((*decoder, "blocks"), BIG, "blocks"),
        ((*decoder, "blocks"), -1, "blocks"),
        ((*decoder, "blocks"), "two", "blocks"),
        ((*decoder, "blocks"), 1, "decoder|weights"),
        ((*decoder, "tokens"), 7, "tokens"),
        ((*decoder, "tokens"), "1 2 x", "tokens"),
        ((*decoder, "tokens"), "-5 3", "tokens"),
        ((*decoder, "tokens"), f"1 {BIG}", "tokens"),
        ((*decoder, "decoder_id"), "f" * 64, "decoder"),
        ((*decoder, "decoder_id"), 12, "decoder_id"),
        ((*decoder, "spec"), "hf:nobody/nothing", "hf:nobody/nothing"),
        ((*decoder, "spec"), "/dev/zero", "/dev/zero"),
        ((*decoder, "spec"), "", "spec|decoder"),
        ((*decoder, "spec"), "a" * 100_000, "spec"),
        ((*decoder, "spec"), "x\0y", "spec|decoder"),
        ((*decoder, "spec"), ["lite"], "spec"),
        ((*image, "spec"), "hf:nobody/nothing", "hf:nobody/nothing"),
        ((*image, "spec"), "open_clip:ViT-B-32/openai", "open_clip:ViT-B-32/openai"),
        ((*image, "spec"), "timm:resnet50.a1_in1k", "timm:resnet50.a1_in1k"),
        ((*image, "spec"), "open_clip:ViT-B-32@/dev/zero", "/dev/zero"),
        ((*image, "spec"), 5, "spec"),
        ((*image, "weights_id"), "0" * 64, "weights"),
        ((*image, "weights_id"), None, "weights_id"),
        ((*image, "more"), 5, "more"),
        ((*method, "dropout"), 7, "dropout"),
        (("decoder", "spec"), "/proc/self/fd", "/proc/self/fd"),
        (("decoder", "spec"), "~/../../x", "decoder|spec"),
        (("grid", "rows"), 2**31, "grid|rows"),
    ]
    cases = [
        Hostile(f"captioner: {'.'.join(keys)} = {short(value)}", edit(path, *keys, to=value), word)
        for keys, value, word in changes
    ]
    cases += [
        Hostile(
            "captioner: NaN in a setting", edit(path, *bridge, "gain", to=float("nan")), "gain|NaN"
        ),
        Hostile(
            "captioner: known words are a list", edit(path, "known_words", to=[1]), "known_words"
        ),
        Hostile("captioner: known words without labels", known_words(labels=[]), "labels"),
        Hostile("captioner: labels are numbers", known_words(labels=[1, 2]), "labels"),
        Hostile("captioner: labels are a text", known_words(labels="abc"), "labels"),
        Hostile("captioner: a billion of the top labels", known_words(top=BIG), "top"),
        Hostile("captioner: prompts of other labels", known_words(prompts=[["a"]]), "prompts"),
        Hostile("captioner: known words of another model", known_words(), "tags of"),
        Hostile("run: the best is elsewhere", run_of("../../../etc"), "metrics.json"),
        Hostile("run: the best is absolute", run_of("/etc"), "metrics.json"),
        Hostile("run: the best is a list", run_of(["lora"]), "metrics.json"),
        Hostile("run: the best is not there", run_of("adapter"), "adapter"),
        Hostile("run: the best is there", run_of("lora"), ""),
        Hostile(
            "run: metrics are a pipe",
            several(run_of("lora"), special(f"{CAPTIONER}/metrics.json", "pipe")),
            "metrics.json|captioner",
        ),
        Hostile(
            "captioner: explain.json names another module",
            put(
                f"{CAPTIONER}/explain.json",
                '{"schema": 1, "method": "../x", "layer": null, "head": null}',
            ),
            "../x",
            "explain",
        ),
        Hostile("captioner: it works", lambda root: None, ""),
        Hostile("captioner: it explains", lambda root: None, "", "explain"),
        Hostile("captioner: a foreign file beside it", put(f"{CAPTIONER}/evil.py", "1/0"), ""),
    ]
    return cases


def choosing_cases() -> list[Hostile]:
    """rerank.json and the datastore that it goes with."""
    path, about = f"{CAPTIONER}/{STORE}", f"{CAPTIONER}/rerank.json"
    changes: list[tuple[str, Any, str]] = [
        ("schema", 2, "schema"),
        ("schema", None, "schema"),
        ("evidence", "luck", "evidence"),
        ("evidence", ["both"], "evidence"),
        ("candidates", BIG, "candidates"),
        ("candidates", 0, "candidates"),
        ("candidates", "3", "candidates"),
        ("candidates", 2.5, "candidates"),
        ("weights", None, "weights"),
        ("weights", [1, 2, 3], "weights"),
        ("weights", {"match": 1}, "mean_log_probability"),
        ("weights", {"mean_log_probability": "1"}, "weights"),
        ("weights", {"mean_log_probability": float("nan")}, "rerank.json"),
        ("weights", {"mean_log_probability": 10**400}, "rerank.json"),
        ("model", "hf:nobody/nothing", "hf:nobody/nothing"),
        ("model", "/dev/zero", "/dev/zero"),
        ("model", "x\0y", "rerank.json|model"),
        ("model", 5, "model"),
        ("model", "", "model|rerank.json"),
        ("weights_id", "0" * 64, "rerank.json"),
        ("weights_id", 3, "weights_id"),
        ("figures", {}, "figures"),
        ("figures", 3, "figures"),
    ]
    cases = [
        Hostile(f"choosing: rerank.json, {name} = {short(value)}", chooses(**{name: value}), words)
        for name, value, words in changes
    ]

    def broken(name: str, change: Change, words: str | None, store: str = "datastore") -> Hostile:
        return Hostile(f"choosing: the {store} {name}", several(chooses(store), change), words)

    for store, more in (
        ("datastore", {"of wide numbers": ("vectors", lambda t: t.float())}),
        ("summary", {"of no phrases": ("say", lambda t: t[:, :0])}),
    ):
        alter = {
            "without a text": ("text", None),
            "with a text of numbers": ("text", lambda t: t.int()),
            "with half of the text": ("text", lambda t: t[: len(t) // 2].clone()),
            "with a text that is nested deeply": ("text", lambda t: t[:1].repeat(100_000)),
            "with a text that is no UTF-8": ("text", lambda t: t | 128),
            "of another image": ("centre", lambda t: t[:3].clone()),
            "flat": ("centre", lambda t: t[None].clone()),
            **more,
        }
        for name, (part, function) in alter.items():
            change = tensors(path, lambda found, part=part, function=function: found.update(
                {part: function(found[part])}) if function else found.pop(part))  # fmt: skip
            cases.append(broken(name, change, STORE, store))
        cases += [
            broken("is not a number", tensors(path, spoil(float("nan"))), STORE, store),
            broken("is infinite", tensors(path, spoil(float("inf"))), STORE, store),
            broken("is empty", tensors(path, every(lambda t: t[:0])), STORE, store),
            broken("claims 2^62 numbers", header(path, of_first(shape=[2**31] * 2)), STORE, store),
            broken("claims a longer header", header(path, dict, 2**40), STORE, store),
            broken("says that it is something else",
                   header(path, lambda found: found | {"__metadata__": {"format": "pt"}}),
                   "no datastore", store),
            broken("is of another encoder",
                   header(path, lambda found: found["__metadata__"].update(weights_id="x")),
                   "another image encoder", store),
        ]  # fmt: skip
    cases += [
        broken("is a pipe", special(path, "pipe"), STORE),
        broken("is a device", special(path, "/dev/zero"), STORE),
        broken("is a folder", special(path, "folder"), STORE),
        broken("is gone", special(path, "nothing"), STORE),
        broken("is a pickle", put(path, b"\x80\x04K\x01."), STORE),
        broken("is there", lambda root: None, ""),
        broken("is there", lambda root: None, "", "summary"),
        broken("and rerank.json is a pipe", special(about, "pipe"), "rerank.json"),
        broken("and rerank.json is a device", special(about, "/dev/zero"), "rerank.json"),
        broken("and rerank.json is a list", put(about, "[]"), "rerank.json"),
        *(
            Hostile(
                f"choosing: captions before the caption, {name}",
                several(
                    chooses(store), edit(f"{CAPTIONER}/{CONFIG}", "prompt_captions", to=to), change
                ),
                words,
            )
            for name, store, to, change, words in (
                ("of a summary", "summary", 3, lambda root: None, "holds no captions"),
                ("gone", "datastore", 3, special(path, "nothing"), STORE),
                ("a pipe", "datastore", 3, special(path, "pipe"), STORE),
                ("too many", "datastore", BIG, lambda root: None, "prompt_captions"),
                ("fewer than none", "datastore", -1, lambda root: None, "prompt_captions"),
                ("a text", "datastore", "3", lambda root: None, "prompt_captions"),
                ("that are there", "datastore", 3, lambda root: None, ""),
            )
        ),
    ]
    return cases
