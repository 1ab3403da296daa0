"""The command line: pictures and attributes as the library makes them, one sentence for what cannot be done."""

import dataclasses
import errno
import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from placing import place
from processes import heeding
from tiny import WORDS, text_to_image, unconditional

from lsvd import __main__ as cli
from lsvd import avi, backbones
from lsvd.__main__ import main
from lsvd.avi import attribute
from lsvd.commands import COMMANDS
from lsvd.commands import cache as cache_command
from lsvd.commands.edit import encoded
from lsvd.guidance import LowRank
from lsvd.sampling import trajectory
from lsvd.storage import files

ROOT = Path(__file__).resolve().parents[2]
FEW = ["--steps", "4", "--guidance", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    text_to_image().pipe.save_pretrained(folder)
    (folder / "vocabulary.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch):
    """The command `edit` on the tiny backbone, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, few=FEW):
        return main(["edit", "a person", "--backbone", str(folder), *few, *arguments])

    return run


def pixels(name):
    """A written picture as an array of shape (height, width, 3)."""
    return np.asarray(Image.open(name))


def made(folder, *, seeds=0, **settings):
    return avi.edit_prompt(
        backbones.load(folder),
        "a person",
        "an old person",
        seeds=seeds,
        steps=4,
        guidance=2,
        whole=True,
        **place(**settings),
    )


def drawn(folder, *walks):
    """What is to be seen of trajectories: a column for each, a row for each seed."""
    backbone = backbones.load(folder)
    whole = torch.cat([torch.cat(list(backbone.decode(walk.final)), dim=-2) for walk in walks], dim=-1)
    return whole.mul(255).round().byte().permute(1, 2, 0).numpy()


def near(a, b):
    """Whether two pictures agree to rounding: weights read twice lie elsewhere, which convolutions may notice."""
    return a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_the_whole_way(tmp_path):
    """As from a shell, with the model that comes along."""
    command = [sys.executable, "-m", "lsvd", "edit", "a person", "--to", "an old person", "--seed", "7", "--steps", "4"]
    done = subprocess.run(
        [*command, "--compare", "--out", str(tmp_path / "x.png")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and "%|" not in done.stderr  # no bar: stderr is not a terminal
    picture = pixels(tmp_path / "x.png")
    assert picture.shape == (128, 3 * 128, 3) and picture.std() > 1
    source, _, edited = np.split(picture, 3, axis=1)
    assert not near(source, edited)
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


HEAVY = "{'torch', 'numpy', 'scipy', 'diffusers', 'transformers', 'matplotlib', 'PIL'}"


@pytest.mark.parametrize("arguments", [None, ["--help"], ["edit", "--help"], ["cache", "--help"], ["cache"]])
def test_nothing_heavy_is_loaded_before_it_is_needed(tmp_path, arguments):
    run = f"""
try:
    from lsvd.__main__ import main
    main({arguments})
except SystemExit:
    pass
"""
    code = f"import lsvd, sys\n{run if arguments else ''}\nsys.exit(bool({HEAVY} & set(sys.modules)))"
    environment = {**os.environ, "LSVD_OUTPUTS": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0 and done.stderr == b""


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "usage: python -m lsvd" in said and "options:" in said
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"  {name}" in capsys.readouterr().out


def test_the_commands_that_make_runs_exist():
    commands = re.findall(r"-m lsvd ([\w-]+)", (ROOT / "Makefile").read_text())
    assert commands and set(commands) <= set(COMMANDS)


def test_it_draws_the_edit(run, folder):
    assert run("--to", "an old person", "--seed", "3", "--seed", "5", "--tx", "0.5", "--dtau", "-1") == 0
    expected = drawn(folder, made(folder, seeds=(3, 5), tx=0.5, dtau=-1).edited)
    assert expected.shape == (32, 16, 3) and near(pixels("edit.png"), expected)


def test_compare_shows_source_target_and_edit(run, folder):
    assert run("--to", "an old person", "--compare", "--out", "new/x.PNG") == 0
    edit = made(folder)
    assert near(pixels("new/x.PNG"), drawn(folder, edit.source, edit.target, edit.edited))


def test_compare_shows_the_target_prompt_even_if_z_is_branched(run, folder):
    place = ["--tx", "0", "--branch", "0.5"]
    assert run("--to", "an old person", *place, "--compare") == 0
    edit, whole = made(folder, tx=0, branch=0.5), made(folder, tx=0)
    assert near(pixels("edit.png"), drawn(folder, edit.source, whole.target, edit.edited))
    assert edit.places.t_branch is not None and not torch.equal(edit.target.final, whole.target.final)


@pytest.mark.parametrize("strength", [-0.5, 0.0, 2.0])
def test_strength(run, folder, strength):
    assert run("--to", "an old person", "--strength", str(strength)) == 0
    edit, model = made(folder), backbones.load(folder)
    expected = attribute.apply_to(model, edit.source, attribute.Attribute.of(edit), strength)
    assert near(pixels("edit.png"), drawn(folder, expected))
    assert not strength or not torch.equal(expected.final, edit.source.final)


def test_an_attribute_is_kept_and_applied(run, folder):
    assert run("--to", "an old person", "--save", "old.safetensors", "--strength", "0.3") == 0
    learned = attribute.load("old.safetensors")
    assert learned.settings.seeds == (0,) and learned.target == ("an old person",)
    assert run("--to", "a person with red hair", "--tx", "0.3", "--save", "red.safetensors") == 0
    both = ["--attribute", "old.safetensors", "--attribute", "red.safetensors"]
    # steps and guidance are the attributes' own
    assert run(*both, "--seed", "9", "--strength", "1.5", "--strength", "-1", "--compare", few=[]) == 0
    model, pair = backbones.load(folder), [learned, attribute.load("red.safetensors")]
    source, edited = attribute.apply(model, pair, "a person", 9, [1.5, -1.0])
    assert source.settings.steps == 4 and pair[0].t > pair[1].t
    assert near(pixels("edit.png"), drawn(folder, source, edited))


def test_the_learned_attribute_on_its_own_seed_is_the_edit(run):
    assert run("--to", "an old person", "--save", "old.safetensors", "--out", "a.png") == 0
    assert run("--attribute", "old.safetensors", "--out", "b.png") == 0
    assert near(pixels("a.png"), pixels("b.png"))


@pytest.mark.parametrize(("name", "kind"), [("x.png", "PNG"), ("x.jpg", "JPEG"), ("x.JPEG", "JPEG")])
def test_formats(run, name, kind):
    assert run("--to", "an old person", "--out", name) == 0
    with Image.open(name) as picture:
        assert picture.format == kind and picture.size == (16, 16)


def test_low_rank_guidance_draws_the_librarys_edit(run, folder):
    options = ["--rank", "2", "--start", "0.8", "--end", "0.2", "--strength", "1", "--strength", "-0.5"]
    pair = ["--to", "an old person", "--to", "red hair"]
    assert run("--method", "low-rank", *pair, *options, "--compare", "--seed", "1", "--seed", "2") == 0
    backbone, targets = backbones.load(folder), {"an old person": 1.0, "red hair": -0.5}
    request = {"seeds": (1, 2), "steps": 4, "guidance": 2}
    edit = avi.edit_prompt(backbone, "a person", targets, method=LowRank(2, 1.0, 0.8, 0.2), whole=True, **request)
    others = [trajectory.run(backbone, target, **request) for target in targets]
    assert near(pixels("edit.png"), drawn(folder, edit.source, *others, edit.edited))


def test_a_kept_direction_is_applied_again(run):
    few = ["--method", "low-rank", "--end", "0"]
    assert run("--to", "an old person", *few, "--strength", "0.5", "--save", "old.json", "--out", "half.png") == 0
    assert run("--to", "red hair", *few, "--save", "red.json", "--out", "red.png") == 0
    assert run("--attribute", "old.json", "--out", "again.png") == 0
    assert near(pixels("again.png"), pixels("half.png"))
    assert run("--attribute", "old.json", "--attribute", "red.json", "--strength", "2", "--strength", "1") == 0
    assert run("--to", "an old person", "--to", "red hair", *few, "--out", "both.png") == 0
    assert near(pixels("edit.png"), pixels("both.png"))
    assert run("--to", "an old person", "--save", "old.safetensors") == 0
    assert run("--to", "young", *few, "--save", "old.json") == 0  # it may replace what it wrote


def test_files_of_both_kinds_are_refused(run, capsys):
    assert run("--to", "an old person", "--save", "old.safetensors") == 0
    assert run("--to", "red hair", "--method", "low-rank", "--save", "red.json") == 0
    assert run("--attribute", "old.safetensors", "--attribute", "red.json") == 1
    assert "give files of one kind" in capsys.readouterr().err


def test_a_png_holds_the_picture_exactly():
    values = torch.randint(256, (5, 7, 3), generator=torch.Generator().manual_seed(0)).byte()
    assert np.array_equal(pixels(io.BytesIO(encoded(values, "PNG"))), values.numpy())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--to", "a person"], "nothing to edit"),
        (["--to", "old", "--seed", "-1"], "a seed cannot be -1: give a whole number from 0 to 4294967295"),
        (["--to", "old", "--seed", "1", "--seed", "1"], "named twice"),
        (["--to", "old", "--steps", "0"], "cannot take 0 steps"),
        (["--to", "old", "--guidance", "nan"], "guidance nan makes no sense"),
        (["--to", "old", "--tx", "601"], "fraction from 0 to 1"),
        (["--to", "old", "--tx", "nan"], "fraction from 0 to 1"),
        (["--to", "old", "--dtau", "99"], "leaves the schedule"),
        (["--to", "old", "--strength", "inf"], "not finite"),
        (["--to", "old", "--strength", "1", "--strength", "2"], "2 strengths for 1 attributes"),
        (["--to", "old", "--strength", "1e300"], "not finite: choose some nearer to 0"),
        (["--to", "old", "--backbone", "sd22"], "choose from mini-sd"),
        (["--to", "old", "--device", "abacus"], "there is no device 'abacus'"),
        (["--to", "old", "--device", "meta"], "there is no device 'meta'"),
        (["--to", "old", "--out", "x.bmp"], "end its name in .png"),
        (["--to", "old", "--out", "folder.png"], "is a folder"),
        (["--to", "old", "--out", "file/x.png"], "a file stands where a folder is needed"),
        (["--to", "old", "--save", "file/x.safetensors"], "a file stands where a folder is needed"),
        (["--to", "old", "--save", "./x.png", "--out", "x.png"], "choose another file"),
        (["--attribute", "none.safetensors"], "there is no file none.safetensors"),
        (["--attribute", "file"], "file is not a safetensors file"),
        (["--attribute", "folder.png"], "it is a folder or a device"),
        (["--to", "old \udcff"], "the prompt 'old .udcff' is not UTF-8"),
        (["--to", "old", "--out", "file.png"], "file.png is there and not a picture: .*--force"),
        (["--to", "old", "--out", "locked.png"], "locked.png is read-only: .*--force"),
        (["--to", "old", "--out", "/dev/null.png/../null"], "cannot tell the format"),
        (["--to", "old", "--save", "file"], "file is there and not an attribute: .*--force"),
        (["--to", "old", "--save", "/dev/null"], "is a device"),
        (["--attribute", "file.png", "--out", "file.png"], "file.png is read by this very command"),
        (["--to", "old", "--rank", "2"], "--rank is not for --method avi"),
        (["--to", "old", "--to", "red hair"], "several --to at once are for --method low-rank"),
        (["--to", "old", "--method", "low-rank", "--tx", "0.5"], "--tx is not for --method low-rank"),
        (["--to", "old", "--method", "low-rank", "--rank", "0"], "the rank cannot be 0"),
        (["--to", "old", "--method", "low-rank", "--rank", "99"], "choose a rank from 1 to 8"),
        (["--to", "old", "--method", "low-rank", "--start", "0.1"], "the start above the end"),
        (["--to", "old", "--method", "low-rank", "--guidance", "1"], "has no guidance"),
        (["--to", "a person", "--method", "low-rank"], "nothing to edit"),
        (["--to", "old", "--method", "low-rank", "--strength", "inf"], "not a strength"),
        (["--attribute", "file", "--method", "low-rank"], "--method is for learning"),
        (["--attribute", "file", "--tx", "0.5"], "--tx is for learning"),
        (["--attribute", "file", "--branch", "0.5"], "--branch is for learning"),
        (["--attribute", "file", "--save", "y"], "--save is for learning"),
    ],
)
def test_bad_input_is_one_sentence(run, tmp_path, capsys, arguments, problem):
    (tmp_path / "file").write_text("not a folder, nor an attribute")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.png").write_text("not a picture")
    (tmp_path / "locked.png").write_bytes(encoded(torch.zeros(8, 8, 3, dtype=torch.uint8), "PNG"))
    (tmp_path / "locked.png").chmod(0o444)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert run(*arguments) == 1
    said = capsys.readouterr()
    assert said.out == "" and re.search(problem, said.err)
    assert said.err.startswith("lsvd: ") and said.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_bad_attributes_are_one_sentence(run, folder, capsys):
    assert run("--to", "an old person", "--save", "old.safetensors") == 0
    other = ["edit", "a person", "--attribute", "old.safetensors", "--backbone"]
    assert main([*other, str(folder / ".." / "tiny"), "--steps", "7"]) == 1
    assert "7 steps does not stop at" in capsys.readouterr().err
    unconditional().pipe.save_pretrained("tiny-ddpm")
    assert main([*other, "tiny-ddpm"]) == 1
    assert "learned with tiny, not tiny-ddpm" in capsys.readouterr().err
    whole = Path("old.safetensors").read_bytes()
    Path("old.safetensors").write_bytes(whole[:-5])
    assert run("--attribute", "old.safetensors") == 1
    assert "truncated or damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["paint"], ["edit"], ["edit", "a"], ["edit", "a", "--to", "b", "--attribute", "c"], ["edit", "--to", "b"]],
)
def test_bad_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and "usage: python -m lsvd" in capsys.readouterr().err


def test_a_word_the_model_never_saw_is_remarked_on(run, capsys):
    assert run("--to", "a wizard") == 0
    assert capsys.readouterr().err.startswith("lsvd: tiny was never shown the words wizard of 'a wizard'")


def test_force_replaces_what_is_there(run, tmp_path):
    assert run("--to", "an old person", "--save", "old.safetensors", "--out", "x.png") == 0
    # its like is replaced without being asked
    assert run("--to", "an old person", "--save", "old.safetensors", "--out", "x.png") == 0
    whole = (tmp_path / "old.safetensors").read_bytes()
    (tmp_path / "notes.png").hardlink_to(tmp_path / "old.safetensors")
    use = ["--attribute", "old.safetensors", "--out", "notes.png"]
    assert run(*use) == 1 and (tmp_path / "old.safetensors").read_bytes() == whole
    assert run(*use, "--force") == 0 and pixels("notes.png").shape == (16, 16, 3)
    assert (tmp_path / "old.safetensors").read_bytes() == whole  # the other name keeps its content
    (tmp_path / "x.png").chmod(0o444)
    assert run("--to", "an old person", "--out", "x.png") == 1
    assert run("--to", "an old person", "--out", "x.png", "--force") == 0


ESCAPES = "\x1b]0;owned\x07\x9b2J\nlsvd: done"


def test_what_comes_from_a_file_cannot_act_on_the_terminal(run, capsys):
    assert run("--to", "an old person", "--save", "old.safetensors") == 0
    learned = attribute.load("old.safetensors")
    for changes in (
        {"backbone": ESCAPES, "model": "other"},
        {"backbone": ESCAPES, "model": ""},
        {"scheduler": ESCAPES},
    ):
        settings = dataclasses.replace(learned.settings, **changes)
        dataclasses.replace(learned, settings=settings, models={}).save("forged.safetensors")
        assert run("--attribute", "forged.safetensors", "--force") == 1
        said = capsys.readouterr().err
        assert "x1b]0;owned" in said and said.count("\n") == 1 and said[:-1].isprintable()


def raising(error):
    def fail(*arguments, **settings):
        raise error

    return fail


def allocate(what):
    def take(*arguments, **settings):
        return torch.empty(2**55) if what == "torch" else np.empty(2**55) if what == "numpy" else bytearray(2**60)

    return take


@pytest.mark.parametrize(
    ("fail", "status", "said"),
    [
        (raising(KeyboardInterrupt()), 130, "lsvd: stopped; nothing was written\n"),
        (raising(MemoryError()), 1, "not enough memory: take fewer seeds"),
        (raising(torch.OutOfMemoryError("CUDA out of memory. Tried to")), 1, "not enough memory: take fewer seeds"),
        (raising(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))), 1, "not enough memory: take fewer seeds"),
        (raising(RuntimeError("std::bad_alloc")), 1, "not enough memory: take fewer seeds"),
        (allocate("torch"), 1, "not enough memory: take fewer seeds"),
        (allocate("numpy"), 1, "not enough memory: take fewer seeds"),
        (allocate("Python"), 1, "not enough memory: take fewer seeds"),
        (raising(ValueError("\x1b[31mred\nblue")), 1, "lsvd: \\x1b[31mred; blue\n"),
        (raising(OSError()), 1, "lsvd: OSError\n"),
    ],
)
def test_stopped_or_out_of_memory(run, monkeypatch, capsys, fail, status, said):
    monkeypatch.setattr(avi, "edit_prompt", fail)
    assert run("--to", "an old person") == status
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and not Path("edit.png").exists()


def test_an_error_of_ours_is_not_hidden(run, monkeypatch):
    for error in (RuntimeError("a matrix of another size"), TypeError("a bug")):
        monkeypatch.setattr(avi, "edit_prompt", raising(error))
        with pytest.raises(type(error)):
            run("--to", "an old person")


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["survey", "mini-cats"], "lsvd.studies.survey.survey"),
        (["study", "editing"], "lsvd.studies.editing.measure"),
        (["evaluate", "reader-cats"], "lsvd.testbed.evaluate.score_reader"),
        (["tables", "backbones"], "lsvd.studies.tables.read"),
        (["cache"], "lsvd.storage.cache.entries"),
        (["train", "mini-cats"], "lsvd.testbed.training.train.train"),
    ],
)
def test_every_command_is_stopped_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, place):
    def stop(*args, **kwargs):
        files.write_bytes(tmp_path / "a" / "finished", b"")
        raise KeyboardInterrupt

    monkeypatch.setenv("LSVD_OUTPUTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lsvd.testbed.evaluate._renderings", lambda *args, **kwargs: None)
    monkeypatch.setattr("lsvd.studies.rig.load_rig", lambda *args: None)
    monkeypatch.setattr(place, stop)
    assert main(arguments) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    kept = f"(1 in {tmp_path}/a)"
    assert said == f"lsvd: stopped; finished files are kept {kept}, and the same command goes on from there"


WAITING = """
import sys, time
from lsvd.__main__ import main
from lsvd.commands import cache
from lsvd.storage import files
def run(options):
    files.write_bytes("kept", b"")
    print("running", flush=True)
    time.sleep(60)
cache.run = run
sys.exit(main(["cache"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(tmp_path, number):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with heeding([sys.executable, "-c", WAITING], cwd=tmp_path, env=environment, **pipes) as process:
        assert process.stdout.readline() == "running\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said.startswith("lsvd: stopped; finished files are kept (1 in .)") and said.count("\n") == 1


def test_the_signal_acts_as_before_afterwards(monkeypatch, capsys, request):
    numbers = signal.SIGINT, signal.SIGTERM

    def handlers():
        return [signal.getsignal(number) for number in numbers]

    # a shell has what it runs in the background ignore Ctrl-C, and that is left as it is
    given = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, given))
    before, seen = handlers(), []
    monkeypatch.setattr(cache_command, "run", lambda options: seen.append(handlers()))
    assert main(["cache"]) == 0
    assert seen == [[cli._stop, cli._stop]] and handlers() == before
    thread = threading.Thread(target=lambda: seen.append(main(["cache"])))
    thread.start()
    thread.join()
    assert seen[1:] == [before, 0]


HALF = """
import importlib.abc, os, signal, sys
from lsvd.commands import cache
from lsvd.__main__ import main
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "half":
            os.kill(os.getpid(), int(sys.argv[1]))
sys.meta_path.insert(0, Finder())
def run(options):
    try:
        import half
    finally:
        print("goes on", flush=True)
cache.run = run
sys.exit(main(["cache"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_an_import_ends_the_process_silently(tmp_path, number):
    """An interrupted import leaves a module half there, and numpy then recurses without end."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HALF, str(int(number))]
    with heeding(command, cwd=tmp_path, env=environment, **pipes) as process:
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == -number


def test_a_reader_of_the_output_that_has_gone(tmp_path):
    code = "from lsvd.commands import cache; cache.run = lambda o: print('x' * 10**6); import lsvd.__main__ as m; "
    command = [sys.executable, "-c", code + "raise SystemExit(m.main(['cache']))"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1


@pytest.mark.parametrize(("terminal", "variable", "shown"), [(True, "", True), (True, "1", False), (False, "", False)])
def test_progress_bar(run, monkeypatch, terminal, variable, shown):
    class Screen(io.StringIO):
        def isatty(self):
            return terminal

    monkeypatch.setattr(sys, "stderr", Screen())
    monkeypatch.setenv("TQDM_DISABLE", variable)
    assert run("--to", "an old person") == 0
    assert ("0/1" in sys.stderr.getvalue()) == shown
