"""Tables of an evaluation report, as text for the terminal."""

from typing import Any

from disentangled_ml.reporting.cells import (
    accuracy_text,
    aligned,
    estimated_note,
    estimated_of,
    marked,
    number_text,
)

OCTAVES_FOLDED = "- octaves folded"  # row behind that of a tempo condition


def accuracy_table(report: dict[str, Any]) -> str:
    """Return the triplet accuracies: a line per condition, in its subspace and in all dimensions; estimated labels are marked."""
    estimated = estimated_of(report)
    rows = [("condition", "own subspace", "all dimensions", "triplets")]
    for name, sub in report["sub"].items():
        if name != "mean":
            both = accuracy_text(sub), accuracy_text(report["all"][name])
            rows.append((marked(name, estimated), *both, str(sub["n"])))
        if name in report.get("octaves_folded", {}):
            folded = report["octaves_folded"][name]
            rows.append((OCTAVES_FOLDED, *map(accuracy_text, folded.values()), str(folded["sub"]["n"])))
    rows.append(("mean", *(number_text(report[space]["mean"]) for space in ("sub", "all")), ""))
    rows.append(("track", "", accuracy_text(report["track"]), str(report["track"]["n"])))
    lines = ["triplet accuracy (chance 0.5) with 95 % intervals", "", *aligned(rows)]
    if skipped := [f"{n} {name}" for name, n in report["skipped"].items() if n]:
        lines.append(f"skipped for missing tracks: {', '.join(skipped)}")
    if estimated:
        lines.append(estimated_note(estimated))
    return "\n".join(lines)


def retrieval_table(report: dict[str, Any]) -> str:
    """Return Recall@1 and @8, and what linear probes predict where they were fitted."""
    recall, probe = report["recall"], report.get("probe", {})
    header = ("condition", "Recall@1", "chance", "Recall@8", "probe ROC-AUC", "PR-AUC")
    rows = [header if probe else header[:4]]
    for name, entry in recall["sub"].items():
        scores = probe.get(name, {"sub": {}})["sub"]
        values = [entry["1"], recall["chance"][name]["1"], entry["8"], scores.get("roc_auc"), scores.get("pr_auc")]
        rows.append((marked(name, estimated_of(report)), *map(number_text, values if probe else values[:3])))
    track = f"track Recall@1: {accuracy_text(report['track_recall'])}"
    return "\n".join(["retrieval and labels, own subspace", "", *aligned(rows), track])
