"""The benchmark behind `scripts/bench`: what speed, memory and start-up are, beside what this machine can do at all."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import bench_against
import bench_pairs
import bench_sizes
import bench_speed
import orjson
from bench_chart import chart
from bench_runs import WORK, clean_up, measure, write_prompts
from bench_server import serving
from bench_speed import Bench
from bench_table import (
    README,
    Case,
    FailedRunError,
    Figure,
    Figures,
    LeftOutError,
    Row,
    chosen,
    exit_on_sigterm,
    kept_rows,
    machine,
    rewritten,
    run_cases,
    section,
    write_rows,
)

RESULT = WORK / "bench.json"
CHART = WORK / "bench.svg"
ROOT = Path(__file__).resolve().parent.parent
LINES = 100_000
STATIONS = Path(__file__).with_name("bench_stations.py")


def stations(bench: Bench) -> Figures:
    """CPU time a request, each station by itself in one process, and what single parts of them cost."""
    words = (str(write_prompts(bench.lines)), bench.server.url(), "--repeats", str(bench.repeats))
    told = orjson.loads(measure(sys.executable, str(STATIONS), *words).stdout)
    return [Figure(**values) for values in told]


def print_profile(bench: Bench) -> bool:
    """Print what each station spends its time on."""
    words = (str(write_prompts(bench.lines)), bench.server.url(), "--profile")
    print(measure(sys.executable, str(STATIONS), *words).stdout)
    return True


def measurements() -> Mapping[str, tuple[str, Callable[[Bench], Figures]]]:
    """All of them by name, in order, and what they are; the parts of a name are what CASE selects by."""
    table: dict[str, tuple[str, Callable[[Bench], Figures]]] = {}
    for count in (1, 64, 256, 1_024, 10_000):
        measure_it = partial(bench_speed.throughput, in_flight=count)
        table[f"throughput:{count}"] = (f"throughput, {count:,} in flight", measure_it)
    table["unbound-limits"] = ("256 in flight, rps, tpm and -j at both levels, none binds", bench_speed.unbound_limits)
    table["session"] = ("256 in flight, `--transport session`", bench_speed.session)
    table["usual"] = ("the usual script: semaphore, ClientSession.post", bench_speed.usual)
    for kind in ("8k", "64k"):
        table[f"replies:{kind}"] = (
            f"256 in flight, replies of {kind[:-1]} KB",
            partial(bench_speed.replies, kind=kind),
        )
    table["tls"] = ("256 in flight, TLS", bench_speed.tls)
    table["slow"] = ("10,000 in flight, replies after 1 s", bench_speed.slow)
    table["paced"] = ("`--rps 10000`, replies after 0.1 s", bench_speed.paced)
    table["memory"] = ("peak memory, 256 in flight", bench_sizes.memory)
    table["start-up"] = ("whole processes", bench_sizes.start_up)
    table["resume"] = ("a run whose lines are all answered, records of 1 KB", bench_sizes.resume)
    table["stations"] = ("CPU a request, station by station", stations)
    return table


class Result:
    """What bench.json holds. A case that is not measured this time keeps its row, unless another server answered it."""

    def __init__(self, bench: Bench, order: Sequence[str]) -> None:
        self._bench = bench
        self._order = order
        kept = kept_rows(RESULT).items()
        self._rows = {name: row for name, row in kept if name in order and row["server"] == bench.server.name}

    def keep(self, row: Row) -> None:
        """Puts a new row in its place; writes the file and the chart."""
        told = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "server": self._bench.server.name}
        conditions = {"lines": self._bench.lines, "repeats": self._bench.repeats, "machine": machine()}
        self._rows[row.case] = {**row.as_json(), **told, **conditions}
        rows = [self._rows[name] for name in self._order if name in self._rows]
        write_rows(RESULT, rows)
        CHART.write_text(chart([Row.from_json(values) for values in orjson.loads(RESULT.read_bytes())["rows"]]))


def write_readme() -> None:
    """Makes the README's section of the last result."""
    rows = list(kept_rows(RESULT).values())
    if not rows:
        sys.exit(f"{RESULT}: holds no rows. Run scripts/bench first.")
    README.write_text(rewritten(README.read_text(), section(rows)))


def measure_cases(bench: Bench, names: Sequence[str]) -> bool:
    """Measures what is asked for; whether all bounds are met."""
    table = measurements()
    result = Result(bench, list(table))
    wanted = []
    for name in names:
        what, measure_it = table[name]
        wanted.append(Case(name, partial(measure_it, bench), what))
    try:
        return run_cases(wanted, result.keep)
    finally:
        clean_up()


def make_parser() -> argparse.ArgumentParser:
    """The options; what is measured is one of three: the cases, other commands, another tree."""
    in_trees, known = " ".join(bench_pairs.tree_cases()), ", ".join(bench_against.known_contenders())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        epilog=f"cases: {' '.join(measurements())}; with --tree: {in_trees}",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help="throughput, throughput:256, tls, ...; all if none")
    parser.add_argument("--lines", type=count, help=f"of one run ({LINES:,}); bounds are for so many or more")
    parser.add_argument("--repeats", type=count, default=5, help="the median counts (%(default)s)")
    parser.add_argument("--memory-lines", type=int, default=1_000_000, help="for the case memory (%(default)s)")
    parser.add_argument(
        "--profile", action="store_true", help="print the functions that each station spends its time in"
    )
    parser.add_argument("--readme", action="store_true", help="write the last result into the README, measure nothing")
    parser.add_argument(
        "--against",
        action="append",
        metavar="COMMAND",
        help="pair llmblast with a shell command that makes JSONL of the same input; placeholders are {input} (our "
        "simple format), {input_chat} (bodies of chat requests), {output}, {url} (up to /v1), {n} (lines), "
        f"{{concurrency}}, {{python}}. Known by name: {known}; or all",
    )
    parser.add_argument("--concurrency", type=count, help="requests in flight of --against (256)")
    parser.add_argument(
        "--tree", "--before", type=tree_folder, metavar="DIR", help="pair this tree with another checkout of llmblast"
    )
    parser.add_argument(
        "--ours",
        type=tree_folder,
        metavar="DIR",
        help="take this folder as ours, with --tree, in place of this checkout",
    )
    parser.add_argument("--runs", type=count, default=7, help="pairs with --against and --tree (%(default)s)")
    return parser


def count(text: str) -> int:
    """A number above 0."""
    number = int(text.replace("_", ""))
    if number < 1:
        raise ValueError(text)
    return number


def tree_folder(text: str) -> Path:
    """An absolute path of a folder with the package."""
    folder = Path(text).resolve()
    if not (folder / "llmblast/__init__.py").exists():
        raise argparse.ArgumentTypeError(f"{folder}: holds no llmblast/; name a checkout, or an unpacked wheel")
    return folder


def main() -> None:
    """Measures, prints, writes; exit code 1 when a bound is missed."""
    parser = make_parser()
    options = parser.parse_args()
    if options.readme:
        write_readme()
        return
    measure_it = measuring(parser, options)
    WORK.mkdir(parents=True, exist_ok=True)
    is_paired = options.against or options.tree
    repeats = options.runs if is_paired else options.repeats
    exit_on_sigterm()
    try:
        with serving() as server:
            is_met = measure_it(Bench(server, options.lines or LINES, repeats, options.memory_lines))
    except (FailedRunError, LeftOutError) as error:
        sys.exit(f"scripts/bench: {error}")
    sys.exit(0 if is_met else 1)


def measuring(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Callable[[Bench], bool]:
    """What the options ask for; options that do not fit end the program."""
    for option, needed in (("ours", "tree"), ("concurrency", "against")):
        if getattr(options, option) and not getattr(options, needed):
            parser.error(f"--{option} goes with --{needed}")
    if options.cases and (options.profile or options.against):
        parser.error("a CASE goes neither with --profile nor with --against")
    if sum(map(bool, (options.profile, options.against, options.tree))) > 1:
        parser.error("--profile, --against and --tree: only one of them")
    if options.profile:
        return print_profile
    if options.against:
        try:
            contenders = bench_against.find_contenders(options.against)
        except bench_against.TemplateError as error:
            parser.error(f"--against: {error}")
        lines, in_flight = options.lines, options.concurrency or 256
        return lambda bench: bench_against.measure_against(bench, contenders, lines, in_flight)
    if options.tree:
        names = chosen(parser, list(bench_pairs.tree_cases()), options.cases)
        return lambda bench: bench_pairs.measure_trees(bench, names, options.ours or ROOT, options.tree)
    names = chosen(parser, list(measurements()), options.cases)
    return lambda bench: measure_cases(bench, names)


if __name__ == "__main__":
    main()
