"""Models and tokenizers read from folders on disk, so that what is damaged is noticed and said in one sentence.

The libraries fill in what a file lacks, with random weights or an empty vocabulary, and go on. Each function here takes
a `remedy`, with which its errors end.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextConfig, CLIPTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lsvd.checks import out_of_memory

Model = TypeVar("Model", bound=torch.nn.Module)
COPY = "copy or download the folder again"


def restore(name: str) -> str:
    """The remedy for weights that come with the repository."""
    return f"restore them with `git checkout -- lsvd/weights/{name}`, or retrain with `make train`"


def read_model(
    kind: type[Model],
    folder: Path,
    remedy: str,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
    *,
    strict: bool = True,
) -> Model:
    """A model of a diffusers or transformers class, in float32 unless `dtype` says else.

    It is read from safetensors files of the variant, or else without one, or else of the only variant there is (of
    several, that of the most digits). If `strict`, no others are read, and they
    must hold nothing that config.json does not ask for; if not, files of pickled tensors are read where there is
    nothing else, with weights_only. Raises FileNotFoundError if a file is missing, and ValueError if one is damaged,
    or if its tensors are not those that config.json asks for.
    """
    check_json(folder, remedy)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} lacks its config.json: {remedy}")
    pickled = not strict and not any(folder.glob("[!.]*.safetensors")) and any(folder.glob("[!.]*.bin"))
    variant = find_variant(folder, variant, "bin" if pickled else "safetensors")
    if not pickled:
        _check_weights(folder, remedy, variant)
    options: dict[str, Any] = {"dtype": dtype or torch.float32, "local_files_only": True, "variant": variant}
    options |= {"use_safetensors": not pickled} | ({"weights_only": True} if pickled and _transformers(kind) else {})
    if _transformers(kind):
        options["ignore_mismatched_sizes"] = True  # and report them: otherwise they are only printed
    with explained(folder, remedy), silently():
        model, report = kind.from_pretrained(folder, output_loading_info=True, **options)
    for problem, names in (
        ("lacks tensors of the model in its config.json", report["missing_keys"]),
        ("holds tensors that the model in its config.json does not have", report["unexpected_keys"]),
        ("holds tensors of other shapes than its config.json says", [name for name, *_ in report["mismatched_keys"]]),
    ):
        if names and (strict or "does not have" not in problem):
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"the weights file in {folder} {problem} ({min(names)}{others}): {remedy}")
    return model


def find_variant(folder: Path, wanted: str | None, ending: str) -> str | None:
    """The variant of a model's files to read: the one wanted if it is there, else none if that is, else another."""
    variants = {_variant(file) for file in folder.glob(f"[!.]*.{ending}")} or {None}
    if wanted in variants or None in variants:
        return wanted if wanted in variants else None
    rank = {"fp32": 0, "bf16": 1, "fp16": 1}
    return min(variants, key=lambda variant: (rank.get(variant, 2), variant))


def _variant(file: Path) -> str | None:
    """The variant in a file's name: model.fp16.safetensors, model.fp16-00001-of-00002.safetensors, or the older
    model-00001-of-00002.fp16.safetensors."""
    stem = re.sub(r"-\d+-of-\d+", "", file.name.rsplit(".", 1)[0])
    return stem.split(".", 1)[1] if "." in stem else None


def _transformers(kind: type[Model]) -> bool:
    return issubclass(kind, PreTrainedModel)


def read_tokenizer(folder: Path, remedy: str, text: CLIPTextConfig) -> CLIPTokenizer:
    """A CLIPTokenizer, from tokenizer.json or from vocab.json and merges.txt, for a text tower of this configuration.

    Raises FileNotFoundError if a file is missing, and ValueError if one is damaged or does not fit the text tower.
    """
    check_json(folder, remedy)
    if not (folder / "tokenizer_config.json").is_file():
        raise FileNotFoundError(f"{folder} lacks its tokenizer_config.json: {remedy}")
    pair = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    if not pair and not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{folder} has neither tokenizer.json nor vocab.json and merges.txt: {remedy}")
    with explained(folder, remedy), silently():
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        pieces = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    # A byte-pair vocabulary holds letters, what a merge makes of two tokens, and marks. Without its merges a tokenizer
    # spells every word, and the model understands none.
    reachable = {first + second for first, second in pieces["merges"]} | set(tokenizer.all_special_tokens)
    out_of_reach = [t for t in pieces["vocab"] if len(t.removesuffix("</w>")) > 1 and t not in reachable]
    if out_of_reach:
        raise ValueError(f"the tokenizer in {folder} has no merges for {len(out_of_reach)} of its tokens: {remedy}")
    for what, has, takes in (
        ("tokens", len(tokenizer), text.vocab_size),
        ("places", tokenizer.model_max_length, text.max_position_embeddings),
    ):
        if has > takes:
            raise ValueError(f"the tokenizer in {folder} has {has} {what}, its text tower takes {takes}: {remedy}")
    return tokenizer


def check_json(folder: Path, remedy: str) -> None:
    """Raise FileNotFoundError unless the folder is there, ValueError unless each JSON file in it holds a dict.

    An empty configuration counts as damaged: the libraries would take their defaults.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} is missing: {remedy}")
    for file in sorted(folder.glob("[!.]*.json")):
        read_json(file, remedy, empty=not file.name.endswith(("config.json", "index.json")))


def read_json(file: Path, remedy: str, *, empty: bool = False) -> dict[str, Any]:
    """The dict in a JSON file. Raises ValueError if it is anything else, or empty and may not be."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise _denied(file) from error
    except (OSError, ValueError, RecursionError) as error:  # nested too deeply
        raise ValueError(f"{file} is damaged: {remedy}") from error
    if not isinstance(held, dict) or not (held or empty):
        raise ValueError(f"{file} is damaged: {remedy}")
    return held


@contextmanager
def explained(folder: Path, remedy: str) -> Iterator[None]:
    """Turn any error of the libraries, which raise all kinds, into a ValueError of one sentence."""
    try:
        yield
    except MemoryError:
        raise
    except PermissionError as error:
        raise PermissionError(f"{folder} cannot be read, permission is denied: make it readable") from error
    except Exception as error:
        if out_of_memory(error):
            raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        first = first if len(first) < 300 else f"{first[:200].rstrip()} ..."  # some list all that they know
        raise ValueError(f"{folder} could not be loaded ({first}): {remedy}") from error


@contextmanager
def silently() -> Iterator[None]:
    """Keep the libraries' progress bars and reports off for a while; what is wrong is said in an error."""
    logs = (diffusers_logging, transformers_logging)
    before = [(log, log.is_progress_bar_enabled(), log.get_verbosity()) for log in logs]
    for log in logs:
        log.disable_progress_bar()
        log.set_verbosity_error()
    try:
        yield
    finally:
        for log, bars, verbosity in before:
            if bars:
                log.enable_progress_bar()
            log.set_verbosity(verbosity)


def _check_weights(folder: Path, remedy: str, variant: str | None) -> None:
    """Raise unless the safetensors files of a model's variant are all there and whole."""
    files = {file for file in folder.glob("[!.]*.safetensors") if _variant(file) == variant}
    for index in folder.glob(f"[!.]*.safetensors.index.{f'{variant}.' if variant else ''}json"):
        try:
            files |= {folder / shard for shard in read_json(index, remedy)["weight_map"].values()}
        except (KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index} is damaged: {remedy}") from error
    if not files:
        raise FileNotFoundError(f"{folder} holds no .safetensors file, and other formats are not read: {remedy}")
    for file in sorted(files):
        if not file.is_file():
            raise FileNotFoundError(f"the weights file {file} is missing: {remedy}")
        check_safetensors(file, remedy)


def check_safetensors(file: Path, remedy: str) -> list[str]:
    """The names of the tensors in a safetensors file. Raises ValueError if it is truncated or damaged."""
    try:
        with safe_open(file, framework="pt") as weights:
            return list(weights.keys())
    except PermissionError as error:
        raise _denied(file) from error
    except (SafetensorError, OSError) as error:
        raise ValueError(f"the weights file {file} is truncated or damaged: {remedy}") from error


def _denied(file: Path) -> PermissionError:
    return PermissionError(f"{file} cannot be read, permission is denied: make it readable")
