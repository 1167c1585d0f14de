"""A cluster from what the user gives as `--cluster`: a spec string, a YAML file, or the output of `scontrol show node -o`.

    16x4:v100                    16 nodes of 4 GPUs; without a type a node accepts every job
    9x4:v100+9x4:p100+9x4:k80    a mixed cluster, rows in this order

What reads as a spec string is one; other text is content when it looks like content (several lines, `nodes:`,
`NodeName=`), else the path of a file. Content with a line that begins with `NodeName=` is scontrol's, any other YAML.
"""

from __future__ import annotations

import os
import re

from trainmaster.cluster.cluster import Cluster, Node
from trainmaster.cluster.limits import MAX_FILE_BYTES, check_size, checked_type
from trainmaster.cluster.scontrol import cluster_from_scontrol, is_scontrol
from trainmaster.cluster.wording import quoted
from trainmaster.errors import ClusterError

OPTION = "--cluster"
_EXAMPLE = "e.g. 16x4:v100"
_PART = re.compile(r"([0-9]{1,9})[xX]([0-9]{1,9})(?::(.*))?")
_CONTENT = re.compile(r"\s*(NodeName=|nodes\s*:|\{|---)")


def parse_cluster(spec: str | os.PathLike[str], *, files: bool = True) -> Cluster:
    """The cluster that a spec string, the path of a file or the content of one describes. `files`: not of a request, which comes from
    anywhere and would have files of this machine read.

    Raises ClusterError: one line with where, what is wrong, what to do.
    """
    if isinstance(spec, str):
        parts = [_PART.fullmatch(part.strip()) for part in spec.split("+")]
        if all(parts):
            return _from_parts([part for part in parts if part])
        if "\n" in spec or _CONTENT.match(spec):
            return _from_content(spec, OPTION)
    path = os.fspath(spec)
    if not files:
        raise ClusterError(f"{quoted(path)} is not NODESxGPUS[:TYPE]; {_EXAMPLE}")
    return _from_content(_read(path), _one_line(path)) if _exists(path) else _refuse(path)


def describe(cluster: Cluster) -> str:
    """Short text for a header: `64 nodes, 512 GPUs (v100: 512)`."""
    by_type = cluster.gpus_by_type()
    types = ", ".join(f"{name or 'untyped'}: {gpus:,}" for name, gpus in by_type.items())
    text = f"{_count(int(cluster.present.sum()), 'node')}, {_count(cluster.gpus, 'GPU')}"
    text += f" ({types})" if any(by_type) else ""
    if later := len(cluster.nodes) - int(cluster.present.sum()):
        text += f", {_count(later, 'node')} joining later"
    if cluster.left_out:
        text += "; left out: " + ", ".join(f"{_count(nodes, 'node')} {reason}" for reason, nodes in cluster.left_out.items())
    return text


def _from_parts(parts: list[re.Match[str]]) -> Cluster:
    groups: list[tuple[int, Node]] = []
    for part in parts:
        where = f"{OPTION}: {quoted(part[0])}"
        count, gpus, name = int(part[1]), int(part[2]), part[3]
        if count == 0 or gpus == 0:
            raise ClusterError(f"{where} has no {'GPUs' if count else 'nodes'}; {_EXAMPLE}")
        groups.append((count, Node(gpus=gpus, type="" if name is None else checked_type(name, where))))
        check_size(sum(count for count, _ in groups), sum(count * node.gpus for count, node in groups), where)
    return Cluster.of([node for count, node in groups for _ in range(count)])


def _from_content(text: str, where: str) -> Cluster:
    if is_scontrol(text):
        return cluster_from_scontrol(text, where)
    from trainmaster.cluster.yaml_file import cluster_from_yaml  # a spec string, the common case, does not pay for PyYAML

    return cluster_from_yaml(text, where)


def _exists(path: str) -> bool:
    return "\0" not in path and os.path.exists(path)  # also a pipe, as in --cluster <(scontrol show node -o)


def _read(path: str) -> str:
    where = _one_line(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ClusterError(f"{where}: {(error.strerror or str(error)).lower()}; give a spec such as 16x4:v100 or a readable file") from None
    if len(content) > MAX_FILE_BYTES:
        raise ClusterError(f"{where}: larger than {MAX_FILE_BYTES >> 20} MiB; this is no description of a cluster")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ClusterError(f"{where}: not UTF-8 text; give a YAML file or the output of `scontrol show node -o`") from None


def _refuse(text: str) -> Cluster:
    """Neither a spec string nor a file: say what is wrong with the one that was probably meant."""
    if "/" in text or text.lower().endswith((".yaml", ".yml", ".txt")):
        raise ClusterError(f"{OPTION}: {quoted(text)}: no such file; give its path, or a spec such as 16x4:v100")
    wrong = next((part for part in text.split("+") if not _PART.fullmatch(part.strip())), text)
    raise ClusterError(f"{OPTION}: {quoted(wrong)} is not NODESxGPUS[:TYPE], nor a file; {_EXAMPLE}")


def _one_line(path: str) -> str:
    return path if path.isprintable() else quoted(path)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
