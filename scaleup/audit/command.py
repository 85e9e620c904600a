"""`python -m scaleup audit`: what does a fine-tuned model sample?"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import chain, count
from pathlib import Path

from scaleup.audit.gather import Gathered
from theory.audit.estimators.conditional import PERMUTATIONS
from theory.audit.families.families import FAMILIES
from theory.common.console import Options, add_all, refuse_unused

OUT = Path("results/audit")
INCONCLUSIVE = 1


OPTIONS: Options = {
    "run": {"nargs": "?", "type": Path, "metavar": "RUN", "help": "a finished run's folder"},
    "--base": {"type": Path, "help": "samples of the base: a file"},
    "--tuned": {"type": Path, "help": "samples of the tuned model: a file"},
    "--base-features": {"type": Path, "metavar": "NPY", "help": "(n, d), rows as in --base"},
    "--tuned-features": {"type": Path, "metavar": "NPY", "help": "(n, d), rows as in --tuned"},
    **{
        f"--{name}-column": {"help": f"of the files ({name}, if there)"}
        for name in ("reward", "prompt", "seed", "image")
    },
    "--feature-columns": {"help": "what their names begin with (feature)"},
    "--reward": {"help": "of a run: a recorded reward's label (the run's own)"},
    "--features": {"help": "of a run: statistics (default) or clip:model=FOLDER"},
    "--draw": {
        "type": int,
        "metavar": "N",
        "help": "of a run: first draw N pictures of base and tuned",
    },
    "--wrappers": {
        "nargs": "+",
        "choices": tuple(FAMILIES),
        "metavar": "NAME",
        "help": f"to fit ({', '.join(FAMILIES)})",
    },
    "--permutations": {"type": int, "default": PERMUTATIONS, "help": "(%(default)s)"},
    "--seed": {"type": int, "default": 0, "help": "of permutations (%(default)s)"},
    "--one-tilt": {"action": "store_true", "help": "suppose one tilt for all prompts"},
    "--common-prompts": {
        "action": "store_true",
        "help": "leave out prompts that one file alone has",
    },
    "--out": {
        "type": Path,
        "help": f"folder (RUN/audit, or {OUT}; where that holds another audit, with -2, -3, ... "
        "behind it)",
    },
    "--json": {"action": "store_true", "help": "print the JSON, not the verdict"},
}


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of `audit`."""
    command.description = (
        "Audit a run's folder, or base and tuned samples in two files (.csv, .csv.gz, .parquet, "
        ".jsonl). Prints a verdict; writes audit.json and audit.html. Exit status 1: nothing can "
        "be concluded."
    )
    add_all(command, OPTIONS)


def run(options: argparse.Namespace) -> int:
    """Exit status: 0, or 1 where nothing can be concluded.

    Raises:
        ValueError, FileNotFoundError: options that do not go together; bad input.
    """
    from scaleup.audit.page import write_page
    from theory.audit import as_json, audit, validity, verdict
    from theory.common.checks import check_order
    from theory.common.files import check_folder, write_json

    _refuse_unused(options)
    check_order("--seed", options.seed, 0)
    out = options.out or (options.run / "audit" if options.run else OUT)
    check_folder("--out", out)
    gathered = _gathered(options)
    data = gathered.data
    _say(f"{len(data.base)} base and {len(data.tuned)} tuned samples, {len(data.prompts)} prompts")
    report = audit(
        data, wrappers=options.wrappers or (), permutations=options.permutations,
        seed=options.seed, one_tilt=options.one_tilt, sampling=gathered.sampling, say=_say,
    )  # fmt: skip
    made_of = _made_of(options)
    out = options.out or _free(options.run / "audit" if options.run else OUT, made_of)
    found = {"source": gathered.source, "reward": gathered.reward, "made_of": made_of,
             **as_json(report)}  # fmt: skip
    # What took long is said and kept first: the page's pictures may turn out unreadable.
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False), flush=True)
    else:
        print("before any conclusion:")
        print("\n".join(f"- {line}" for line in validity(report)))
        print("verdict:" if report.conclusive else "no verdict:")
        print("\n".join(f"- {line}" for line in (*verdict(report), *report.notes)), flush=True)
    write_json(out / "audit.json", found)
    write_page(out / "audit.html", report, gathered)
    if not options.json:
        print(out / "audit.html")
    return 0 if report.conclusive else INCONCLUSIVE


def _refuse_unused(options: argparse.Namespace) -> None:
    files = options.base is not None or options.tuned is not None
    if (options.run is not None) == files or (options.base is None) != (options.tuned is None):
        raise ValueError(
            "need a run's folder, or --base FILE and --tuned FILE: `audit RUN` or "
            "`audit --base base.csv --tuned tuned.csv`"
        )
    of_files = ("base_features", "tuned_features", "reward_column", "prompt_column", "seed_column",
                "image_column", "feature_columns", "common_prompts")  # fmt: skip
    of_runs = ("reward", "features", "draw")
    unused, allowed = (of_runs, "a run's folder") if files else (of_files, "--base and --tuned")
    refuse_unused(
        (f"--{name.replace('_', '-')}", getattr(options, name), False, allowed) for name in unused
    )


def _gathered(options: argparse.Namespace) -> Gathered:
    from scaleup.audit.gather import from_tables
    from theory.audit.data.columns import quoted
    from theory.audit.data.tables import read_table

    if options.run is not None:  # torch and diffusers come along, which files do without
        from scaleup.audit.run_samples import from_run
        from scaleup.comparison.features import parse_features

        features = parse_features(options.features or "statistics")
        if options.draw is not None:
            from scaleup.audit.draw import draw

            draw(options.run, options.draw)
        return from_run(options.run, features, options.reward)
    tables = [
        read_table(
            path, reward=options.reward_column or "reward", prompt=options.prompt_column,
            seed=options.seed_column, image=options.image_column,
            feature_columns=options.feature_columns or "feature", features=features, name=name,
        )
        for name, path, features in (
            ("--base", options.base, options.base_features),
            ("--tuned", options.tuned, options.tuned_features),
        )
    ]  # fmt: skip
    for table in tables:
        if table.ignored:
            _say(f"{table.source}: columns not read: {quoted(table.ignored)}")
    return from_tables(tables[0], tables[1], options.common_prompts)


# What an audit is asked, and not of whom nor where it goes.
ASKED = (
    "reward", "features", "wrappers", "permutations", "seed", "reward_column", "prompt_column",
    "seed_column", "image_column", "feature_columns", "common_prompts", "one_tilt",
)  # fmt: skip
FILES = ("base", "tuned", "base_features", "tuned_features")


def _made_of(options: argparse.Namespace) -> str:
    """Names the audit: a run, or the content of the files; and what is asked of them."""
    from theory.common.identity import content_digest, digest_of, option_files

    asked = {name: getattr(options, name) for name in ASKED}
    if options.run is not None:
        from scaleup.comparison.features import parse_features

        model = option_files(parse_features(options.features or "statistics"))
        return digest_of([content_digest(options.run / "config.json"), model, asked])
    paths = [getattr(options, name) for name in FILES]
    return digest_of([*(path and content_digest(path) for path in paths), asked])


def _free(folder: Path, made_of: str) -> Path:
    """The folder, or FOLDER-2, FOLDER-3, ...: the first that holds no other audit."""
    others = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    places = chain([folder], others)
    return next(p for p in places if not (p / "audit.json").exists() or _audit_in(p) == made_of)


def _audit_in(folder: Path) -> str | None:
    """What the audit in a folder is made of; None where it does not say."""
    from theory.common.files import read_json

    try:
        found = read_json(folder / "audit.json")
    except ValueError:  # damaged: it is not for us to remove
        return None
    return found.get("made_of") if isinstance(found, dict) else None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
