"""What a verification found, as a value, as text and as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from app.transfer.verification.faults import Finding, meaning_of

CLEAN, MISMATCH, INCOMPLETE = 0, 1, 2
NAMED_PER_FAULT = 20


@dataclass(slots=True)
class Report:
    """The outcome. Anything pending or unread keeps it from being a pass."""

    subject: str
    at: str = ""
    seconds: float = 0.0
    rows: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    tickets: dict[str, int] | None = None  # by queue; None: Redis was not asked
    beyond_window: int = 0
    baseline: dict[str, Any] | None = None
    findings: list[Finding] = field(default_factory=list)
    pending: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 clean, 1 a fault was found, 2 not everything could be said."""
        if self.findings:
            return MISMATCH
        return INCOMPLETE if self.pending or self.unread else CLEAN

    @property
    def verdict(self) -> str:
        if self.exit_code == MISMATCH:
            return f"MISMATCH: {len(self.findings):,} faults of {len(self.counts)} classes"
        if self.exit_code == INCOMPLETE:
            what = [f"{len(self.pending):,} tasks are pending"] if self.pending else []
            what += [f"{len(self.unread)} parts could not be read"] if self.unread else []
            return f"INCOMPLETE: {' and '.join(what)}; this is no pass"
        return "CLEAN: every row and every ticket that was looked at agree"

    @property
    def counts(self) -> dict[str, int]:
        """Findings by class, most first."""
        return dict(Counter(finding.fault.value for finding in self.findings).most_common())

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """Everything, every finding included."""
        named = [{"fault": f.fault.value, "key": f.key, "detail": f.detail} for f in self.findings]
        return {
            "subject": self.subject,
            "at": self.at,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
            "rows": self.rows,
            "rows_per_second": round(self.rows_per_second),
            "statuses": self.statuses,
            "tickets": self.tickets,
            "beyond_window": self.beyond_window,
            "baseline": self.baseline,
            "faults": self.counts,
            "findings": named,
            "pending": self.pending,
            "unread": self.unread,
        }

    def as_text(self) -> str:
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> list[str]:
        lines = [self.verdict, f"{self.subject}, {self.at}", ""]
        lines += [f"rows     {self.rows:,}: {_counted(self.statuses)}"]
        tickets = "not asked" if self.tickets is None else _counted(self.tickets)
        lines += [f"tickets  {tickets}; {self.beyond_window:,} rows beyond the window need none"]
        if self.baseline is not None:
            lines += [f"baseline {_counted(self.baseline)}"]
        lines += [f"{self.seconds:.1f} s, {self.rows_per_second:,.0f} rows a second"]
        for fault, named in self.by_fault().items():
            lines += ["", f"{fault}: {len(named):,} ({meaning_of(named[0].fault)})"]
            lines += [f"  {finding.key}  {finding.detail}" for finding in named[:NAMED_PER_FAULT]]
            if len(named) > NAMED_PER_FAULT:
                lines.append(f"  and {len(named) - NAMED_PER_FAULT:,} more, all of them in --json")
        if self.pending:
            lines += ["", "pending:"]
            lines += [f"  {key}  {reason}" for key, reason in list(self.pending.items())[:NAMED_PER_FAULT]]
        if self.unread:
            lines += ["", "not read:", *(f"  {reason}" for reason in self.unread)]
        return lines

    def by_fault(self) -> dict[str, list[Finding]]:
        """The findings of each class, most first."""
        groups: dict[str, list[Finding]] = {fault: [] for fault in self.counts}
        for finding in self.findings:
            groups[finding.fault.value].append(finding)
        return groups


def _counted(numbers: dict[str, Any]) -> str:
    parts = [f"{name} {n:,}" if isinstance(n, int) else f"{name} {n}" for name, n in numbers.items() if n]
    return ", ".join(parts) or "none"
