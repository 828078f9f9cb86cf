"""The options of ``gammabeta bench``: one dataclass for each benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gammabeta.cli.options import Option, Options
from gammabeta.lab.bench import net as net_bench
from gammabeta.lab.bench import step as step_bench
from gammabeta.lab.bench.allocator import ALLOCATORS
from gammabeta.lab.bench.doctor import SET, TOOLS
from gammabeta.lab.bench.inputs import FORMATS, OPS
from gammabeta.lab.bench.net_models import SMALL, TRANSFORMERS
from gammabeta.lab.bench.net_variants import VARIANTS as NET_VARIANTS
from gammabeta.lab.bench.nets import INCEPTIONS
from gammabeta.lab.bench.rivals import RIVALS
from gammabeta.lab.bench.shapes import LISTS
from gammabeta.lab.bench.variants import VARIANTS
from gammabeta.lab.bench.watch_nets import NETWORKS

DEFAULT_OUT = Path("runs/bench")

_THREADS = 2
_NETWORKS = "bn-inception,resnet-50,tiny"
_ALL_FORMATS = ",".join(FORMATS)
_RIVALS = "eager"

# Options that several benchmarks have.

Shapes = Annotated[
    str,
    Option(
        f"Comma-separated shapes such as 32x64x56x56, or lists of them: {', '.join(LISTS)}.",
        metavar="NAMES",
    ),
]
Formats = Annotated[str, Option(f"Comma-separated formats: {', '.join(FORMATS)}.", metavar="NAMES")]
Rivals = Annotated[
    str, Option(f"Comma-separated contenders: {', '.join(RIVALS)}.", metavar="NAMES")
]
Threads = Annotated[int, Option("Number of torch threads, the same for every contender.")]
Allocator = Annotated[
    str,
    Option(
        f"Allocator setting, the same for every contender: {' or '.join(ALLOCATORS)}.",
        metavar="NAME",
    ),
]
Seconds = Annotated[float, Option("Seconds per case.")]
Quick = Annotated[bool, Option("Run few cases with few rounds, as a smoke test.")]
Out = Annotated[
    Path, Option("Output folder for CSV files and pictures; existing ones are replaced.")
]


@dataclass
class NormOptions(Options):
    """What ``gammabeta bench norm`` is asked for."""

    shapes: Shapes = _NETWORKS
    formats: Formats = _ALL_FORMATS
    ops: Annotated[
        str, Option(f"Comma-separated operations: {', '.join(OPS)}.", metavar="NAMES")
    ] = ",".join(OPS)
    rivals: Rivals = _RIVALS
    threads: Threads = _THREADS
    allocator: Allocator = ALLOCATORS[0]
    seconds: Seconds = 1.0
    quick: Quick = False
    out: Out = DEFAULT_OUT


@dataclass
class TrainingOptions(Options):
    """What decides the network that is trained, and in which variants."""

    model: Annotated[
        str | None,
        Option(
            f"One of {', '.join(INCEPTIONS)}; or module:function, which returns a network of "
            "torch's layers.",
            metavar="NAME",
            shown="8 × conv 3×3",
        ),
    ] = None
    batch: Annotated[int, Option("Images per step.")] = 64
    size: Annotated[int, Option("Height and width of an image.")] = 32
    dtype: Annotated[
        str, Option("Comma-separated precisions: fp32, bf16 (autocast).", metavar="NAMES")
    ] = ",".join(step_bench.DTYPES)
    variants: Annotated[
        str,
        Option(f"Comma-separated variants of the network: {', '.join(VARIANTS)}.", metavar="NAMES"),
    ] = "relu,torch,gammabeta,lean"
    threads: Threads = _THREADS


@dataclass
class StepOptions(TrainingOptions):
    """What ``gammabeta bench step`` is asked for."""

    allocator: Allocator = ALLOCATORS[0]
    seconds: Seconds = 20.0
    quick: Quick = False
    out: Out = DEFAULT_OUT


@dataclass
class MemoryOptions(TrainingOptions):
    """What ``gammabeta bench memory`` is asked for."""

    quick: Quick = False
    out: Out = DEFAULT_OUT


@dataclass
class ErrorOptions(Options):
    """What ``gammabeta bench error`` is asked for."""

    shapes: Shapes = _NETWORKS
    formats: Formats = _ALL_FORMATS
    threads: Threads = _THREADS
    quick: Quick = False
    out: Out = DEFAULT_OUT


@dataclass
class WatchOptions(Options):
    """What ``gammabeta bench watch`` is asked for."""

    models: Annotated[
        str, Option(f"Comma-separated networks: {', '.join(NETWORKS)}.", metavar="NAMES")
    ] = ",".join(NETWORKS[:-1])
    batch: Annotated[int, Option("Examples per step.")] = 4
    size: Annotated[int, Option("Height and width of an image.")] = 224
    rounds: Annotated[int, Option("Steps that are timed for the cost of a frame.")] = 15
    steps: Annotated[int, Option("Steps of a run at the default budget; 0 leaves the run out.")] = (
        300
    )
    soak: Annotated[int, Option("Frames for the growth of memory; 0 leaves it out.")] = 20_000
    record: Annotated[
        int, Option("Frames of a record of 1,000 probes, for its size; 0 leaves it out.")
    ] = 1000
    threads: Threads = _THREADS
    quick: Quick = False
    out: Out = DEFAULT_OUT


@dataclass
class NetOptions(Options):
    """What ``gammabeta bench net`` is asked for."""

    networks: Annotated[
        list[str] | None,
        Option(
            "Networks: pytorchcv:NAME, such as pytorchcv:resnet50; transformers:NAME with a name "
            f"of {', '.join(TRANSFORMERS)}; module:function, which returns a network; "
            f"{', '.join(INCEPTIONS)}; or {SMALL}. By default {len(net_bench.NAMES)} well-known "
            "networks.",
            metavar="[NETWORKS]...",
            positional=True,
            shown=False,
        ),
    ] = None
    batch: Annotated[int, Option("Examples per step.")] = 4
    size: Annotated[int, Option("Height and width of a picture.")] = 224
    layout: Annotated[
        str, Option(f"Comma-separated layouts: {', '.join(net_bench.LAYOUTS)}.", metavar="NAMES")
    ] = ",".join(net_bench.LAYOUTS)
    dtype: Annotated[
        str, Option("Comma-separated precisions: fp32, bf16 (autocast).", metavar="NAMES")
    ] = net_bench.DTYPES[0]
    mode: Annotated[
        str, Option(f"Comma-separated modes: {', '.join(net_bench.MODES)}.", metavar="NAMES")
    ] = ",".join(net_bench.MODES)
    variants: Annotated[
        str,
        Option(
            f"Comma-separated variants of the network: {', '.join(NET_VARIANTS)}.", metavar="NAMES"
        ),
    ] = ",".join(NET_VARIANTS)
    profile: Annotated[bool, Option("Also split the time by kind of operator.")] = False
    threads: Threads = _THREADS
    allocator: Allocator = ALLOCATORS[0]
    seconds: Seconds = 20.0
    quick: Quick = False
    out: Out = DEFAULT_OUT


@dataclass
class ZooOptions(Options):
    """What ``gammabeta bench zoo`` is asked for."""

    networks: Annotated[
        list[str] | None,
        Option(
            "Networks: pytorchcv:NAME or transformers:NAME. By default all of pytorchcv, and many "
            "of transformers in tiny configurations.",
            metavar="[NETWORKS]...",
            positional=True,
            shown=False,
        ),
    ] = None
    limit: Annotated[int, Option("Stop after this many networks.")] = 10_000
    jobs: Annotated[int, Option("Number of processes, each with one thread.")] = 1
    out: Annotated[
        Path, Option("Output folder for zoo.csv; networks that are in it are not run again.")
    ] = DEFAULT_OUT


@dataclass
class DoctorOptions(Options):
    """What ``gammabeta bench doctor`` is asked for."""

    names: Annotated[
        list[str] | None,
        Option(
            "Beginnings of the names of scripts and networks, such as gb103, resnet or "
            "pytorchcv:resnet. By default all.",
            metavar="[NAMES]...",
            positional=True,
            shown=False,
        ),
    ] = None
    tools: Annotated[
        str,
        Option(
            f"Comma-separated tools: {', '.join(TOOLS)}. Networks are for gammabeta alone.",
            metavar="NAMES",
        ),
    ] = ",".join(TOOLS)
    scripts: Annotated[
        Path, Option("Folder with the folders faults and healthy of a checkout of gammabeta.")
    ] = SET
    threads: Threads = 1
    out: Annotated[
        Path, Option("Output folder for doctor.csv; rows that are in it are replaced one by one.")
    ] = DEFAULT_OUT


@dataclass
class AllOptions(Options):
    """What ``gammabeta bench all`` is asked for."""

    rivals: Rivals = _RIVALS
    threads: Threads = _THREADS
    allocator: Allocator = ALLOCATORS[0]
    quick: Quick = False
    out: Out = DEFAULT_OUT
