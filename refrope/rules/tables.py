"""What `refrope.rules.examining.examine` found, as tables for people."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from refrope.report import format_table

WHERE = ("within", "beyond")
_STEPS = {
    "first": "first generated token",
    "two tokens": "where the sum has a shortcut",
    "far token too": "where it has none",
}
_PLACES = {
    ("true", "all"): "true sequences",
    ("slips", "before"): "before the first slip",
    ("slips", "after"): "the step after a slip",
    ("slips", "later"): "8 or more steps after",
    ("shifted", "all"): "shifted sequences",
}


_CONTEXTS = {"rule": "rule's tokens", "pair": "pair"}


def percent(share: float | None) -> str:
    """A share as 12.3, a dash for None."""
    return "-" if share is None else f"{100 * share:.1f}"


def _find(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any] | None:
    """The only row that has these values, or None."""
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    assert len(found) <= 1, wanted
    return found[0] if found else None


def _distinct(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))


def following_table(rows: list[dict[str, Any]]) -> str:
    """Whom the answers follow, in per cent, of `refrope.rules.probes.follow`."""
    columns = {"rule": "rule", "shortcut": "shortcut", "two_terms": "two terms"}
    table = [("sequences", "steps", *(f"{label} {where}" for where in WHERE for label in columns.values()))]
    for sequences, place, steps in _distinct(rows, "sequences", "place", "steps"):
        if (sequences, place) == ("slips", "before") or (steps == "first" and sequences != "true"):
            continue  # as in true sequences
        cells = []
        for where in WHERE:
            row = _find(rows, sequences=sequences, place=place, steps=steps, where=where) or {}
            cells += [percent(row.get(name)) for name in columns]
        table.append((_PLACES[sequences, place], _STEPS[steps], *cells))
    return format_table(table, left=2)


def coefficients_table(rows: list[dict[str, Any]], modulus: int) -> str:
    """What answers add up, of `refrope.rules.responses.responses`: one line for rule, shortcut and each range."""
    header, lines = _header(rows), []
    for steps in _steps(rows):
        for who, label in (("rule_coefficient", "full rule"), ("shortcut_coefficient", "shortcut")):
            known = {row["distance"]: row.get(who) for row in rows if row["steps"] == steps}
            lines.append(
                (_STEPS[steps], label, *(_signed(known.get(distance), modulus) for distance in _distances(rows)))
            )
        for where in WHERE:
            cells = []
            for distance in _distances(rows):
                row = _find(rows, steps=steps, where=where, distance=distance)
                cells.append(
                    "-" if row is None else f"{_signed(row['coefficient'], modulus)} ({100 * row['share']:.0f} %)"
                )
            lines.append((_STEPS[steps], f"model {where}", *cells))
    return format_table([header, *lines], left=2)


def changes_table(rows: list[dict[str, Any]]) -> str:
    """Shares of answers after a changed token that are the rule's, the shortcut's, the same as before."""
    header, lines = _header(rows), []
    for steps in _steps(rows):
        for where in WHERE:
            for name, label in (("rule", "as the rule"), ("shortcut", "as the shortcut"), ("unchanged", "unchanged")):
                found = [_find(rows, steps=steps, where=where, distance=distance) for distance in _distances(rows)]
                cells = ("-" if row is None else percent(row[name]) for row in found)
                lines.append((_STEPS[steps], f"{label} {where}", *cells))
    return format_table([header, *lines], left=2)


def _distances(rows: list[dict[str, Any]]) -> list[Any]:
    return [distance for (distance,) in _distinct(rows, "distance")]


def _steps(rows: list[dict[str, Any]]) -> list[str]:
    return [steps for steps in _STEPS if any(row["steps"] == steps for row in rows)]


def _header(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    names = (f"x_l-{distance}" if isinstance(distance, int) else distance for distance in _distances(rows))
    return ("steps", "changed token:", *names)


def _signed(coefficient: int | None, modulus: int) -> str:
    """A number mod m as the one nearest to 0, as in 2, -1."""
    if coefficient is None:
        return "-"
    return str(coefficient if coefficient <= modulus // 2 else coefficient - modulus)


def contexts_table(rows: list[dict[str, Any]]) -> str:
    """Accuracy by what training has seen, of `refrope.rules.memory.by_context`."""
    header = ("context of the step", "steps", *(f"{name} {where}" for where in WHERE for name in ("count", "right %")))
    table = [header]
    for of, context, steps in _distinct(rows, "of", "context", "steps"):
        cells: list[str] = []
        for where in WHERE:
            row = _find(rows, of=of, context=context, steps=steps, where=where)
            cells += ["-", "-"] if row is None else [str(row["count"]), percent(row["accuracy"])]
        table.append((f"{_CONTEXTS[of]} {context}", _STEPS[steps], *cells))
    return format_table(table, left=2)


def lookup_table(rows: list[dict[str, Any]]) -> str:
    """What tables learned by heart score, and the share of answers that are theirs: `refrope.rules.memory.by_table`."""
    columns = {"accuracy": "right", "agreement": "model agrees"}
    table = [("a table of the", "steps", *(f"{label} {where}" for where in WHERE for label in columns.values()))]
    for of, steps in _distinct(rows, "of", "steps"):
        cells = []
        for where in WHERE:
            row = _find(rows, of=of, steps=steps, where=where) or {}
            cells += [percent(row.get(name)) for name in columns]
        table.append((_CONTEXTS[of], _STEPS[steps], *cells))
    return format_table(table, left=2)


def attention_table(rows: list[dict[str, Any]]) -> str:
    """Mean attention in per cent, of `refrope.rules.attention.attention`: one line a head and range."""
    names = list(rows[0]["shares"])
    table = [("layer", "head", "queries", *names)]
    table += [
        (str(row["layer"]), str(row["head"]), row["where"], *(percent(row["shares"][name]) for name in names))
        for row in rows
    ]
    return format_table(table, left=3)


def summary_table(examined: list[dict[str, Any]]) -> str:
    """One line a model: how well it solves its task, and whom it follows where rule and shortcut part.

    All but the accuracy beyond ("OOD") within the training length. "Pairs": what a table of the two tokens would score,
    and how many of the model's answers are that table's.
    """
    header = (
        *("task", "rule", "recipe", "encoding", "seed", "ID %", "OOD %", "first %"),
        *("slips: rule %", "shortcut %", "shifted: rule %", "shortcut %", "held out %", "pairs score %", "agree %"),
    )
    return format_table([header, *(_summary(each) for each in examined)], left=4)


def _summary(each: dict[str, Any]) -> tuple[str, ...]:
    within = [row for row in each["following"] if row["where"] == "within"]
    true = [row for row in each["following"] if (row["sequences"], row["where"]) == ("true", "beyond")]
    cells = [_mean("rule", [row for row in within if row["sequences"] == "true"]), _mean("rule", true)]
    cells.append(_mean("rule", [row for row in within if (row["sequences"], row["steps"]) == ("true", "first")]))
    for sequences, place in (("slips", "after"), ("shifted", "all")):
        rows = [r for r in within if (r["sequences"], r["place"], r["steps"]) == (sequences, place, "two tokens")]
        cells += [_mean("rule", rows), _mean("shortcut", rows)]
    cells.append(
        _mean("accuracy", [r for r in each["contexts"] if (r["context"], r["where"]) == ("held out", "within")])
    )
    pairs = [r for r in each["tables"] if (r["of"], r["where"]) == ("pair", "within") and r["steps"] != "first"]
    cells += [_mean("accuracy", pairs), _mean("agreement", pairs)]
    settings = each["settings"]
    about = each["task"], settings["rule"], settings["recipe"], each["encoding"], str(each["seed"])
    return (*about, *map(percent, cells))


def _mean(name: str, rows: list[dict[str, Any]]) -> float | None:
    """A share over several groups together; None where one has none, or there is no group."""
    if not rows or any(row[name] is None for row in rows):
        return None
    return float(sum(row["count"] * row[name] for row in rows) / sum(row["count"] for row in rows))


def two_term_lines(found: list[dict[str, Any]], modulus: int = 17) -> str:
    """The nearest rules of two tokens for each task and kind of steps, a line each."""
    lines = []
    for each in found:
        rules = [
            f"x_l = {_signed(near, modulus)} x_l-{at} {_term(far, modulus)} x_l-{lag}"
            for at, near, lag, far in (rule.values() for rule in each["rules"])
        ]
        more = f" and {len(rules) - 3} that reach further" if len(rules) > 3 else ""
        said = "; ".join(rules[:3]) + more if rules else "no rule of two tokens"
        lines.append(f"{each['task']}, {_STEPS[each['steps']]}: {said} (mod {modulus})")
    return "\n".join(lines)


def _term(coefficient: int, modulus: int) -> str:
    signed = int(_signed(coefficient, modulus))
    return f"{'-' if signed < 0 else '+'} {abs(signed)}"


def cycles_table(rows: list[dict[str, Any]], lengths: list[int]) -> str:
    """What `refrope.rules.cycles.cycles` found for each rule and task: `rows` have "rule", "task", "cycles"."""
    header = (
        *("rule", "task", *(f"in a cycle before {n} %" for n in lengths), "commonest periods"),
        *(f"copying before {n} %" for n in lengths[:1]),
        *(f"copying {start}-{end - 1} %" for start, end in pairwise(lengths)),
    )
    table = [header]
    for row in rows:
        found = row["cycles"]
        repeating = found["repeating"] or {}
        periods = sorted((found["periods"] or {}).items(), key=lambda item: -item[1])[:3]
        said = ", ".join(f"{period} ({percent(share)} %)" for period, share in periods) or "-"
        cells = ([percent(values.get(str(n))) for n in lengths] for values in (repeating, found["copying"]))
        table.append((row["rule"], row["task"], *next(cells), said, *next(cells)))
    return format_table(table, left=2)
