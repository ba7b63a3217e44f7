"""The results of tools/gpu/check.py as a file and as the tables of a README."""

import json

from data_prep.common.errors import UserError
from data_prep.common.text import read_json


def dumps(facts, results):
    return json.dumps({"machine": facts, "results": results}, indent=1) + "\n"


def tables(path):
    """Markdown of a results file: the machine, the checks, images per second. Raises UserError."""
    content = read_json(path, "the results file")
    try:
        facts, results = content["machine"], content["results"]
        lines = [_machine(facts), "", "| check | verdict | seconds | |", "|---|---|---:|---|"]
        lines += [
            f"| {name} | {result['verdict']} | {result['seconds']:.0f} | {result['summary']} |"
            for name, result in results.items()
        ]
        speed = results.get("speed", {}).get("values") or {}
        if speed:
            lines += [
                "",
                "| images/s | batch | Caffe float32 | PyTorch | ratio | Caffe TF32 | "
                "PyTorch | ratio |",
                "|---|---:|---:|---:|---:|---:|---:|---:|",
            ]
            lines += [_speed(name, rates) for name, rates in speed.items()]
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path} is not a results file of tools/gpu/check.py ({error})") from None
    return "\n".join(lines) + "\n"


def _machine(facts):
    gpus = ", ".join(
        f"{gpu['name']} ({gpu['memory_gib']} GiB, {gpu['compute']})" for gpu in facts["gpus"]
    )
    versions = ", ".join(
        f"{name} {version}"
        for name, version in (*facts["caffe"].items(), *facts["packages"].items())
    )
    return (
        f"{gpus}; driver {facts['driver']}, {facts['cores']} cores, Python {facts['python']}; "
        f"Caffe {versions}. {facts['date']}."
    )


def _speed(name, rates):
    cells = [name, str(rates["batch"])]
    for kind in ("float32", "tf32"):
        ours, theirs = rates[f"caffe_{kind}"], rates.get(f"torch_{kind}")
        cells += [
            f"{ours:.0f}",
            f"{theirs:.0f}" if theirs else "-",
            f"{ours / theirs:.2f}" if theirs else "-",
        ]
    return f"| {' | '.join(cells)} |"
