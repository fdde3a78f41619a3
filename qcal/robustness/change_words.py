"""Figures and their changes, as people read them."""

from collections.abc import Callable

from qcal.robustness.paired_change import Change

__all__ = ["change_with_interval", "how_it_stands", "in_nats", "in_percent"]


def in_percent(share: float) -> str:
    """A share in percent with one decimal, without the sign.

    Example:
        >>> in_percent(0.1814), in_percent(-0.0001)
        ('18.1', '0.0')
    """
    return _without_negative_zero(f"{100 * share:.1f}")


def in_nats(value: float) -> str:
    """A log-likelihood, or a Brier score, with three decimals.

    Example:
        >>> in_nats(1.50333)
        '1.503'
    """
    return _without_negative_zero(f"{value:.3f}")


def change_with_interval(change: Change, form: Callable[[float], str]) -> str:
    """A change with its interval, if that is known.

    Example:
        >>> change_with_interval(Change(0.1, 0.3, 0.2, 0.15, 0.25), in_percent)
        '+20.0 (+15.0 to +25.0)'
    """
    if change.low is None or change.high is None:
        return _signed(change.change, form)
    return f"{_signed(change.change, form)} ({_signed(change.low, form)} to {_signed(change.high, form)})"


def how_it_stands(gap: Change, form: Callable[[float], str]) -> str:
    """How a figure (`after`) stands to another (`before`), in words that the other's name follows.

    Example:
        >>> how_it_stands(Change(1.2, 1.5, 0.3, 0.2, 0.4), in_nats)
        '0.300 above (95 % interval +0.200 to +0.400)'
        >>> how_it_stands(Change(1.2, 1.2, 0.0, -0.1, 0.1), in_nats)
        'not distinguishable (95 % interval -0.100 to +0.100) from'
    """
    if gap.low is None or gap.high is None:
        return "beside"
    interval = f"(95 % interval {_signed(gap.low, form)} to {_signed(gap.high, form)})"
    if not gap.is_distinguishable:
        return f"not distinguishable {interval} from"
    return f"{form(abs(gap.change))} {'above' if gap.change > 0 else 'below'} {interval}"


def _signed(value: float, form: Callable[[float], str]) -> str:
    text = form(value)
    return text if text.startswith("-") or not text.strip("0.") else f"+{text}"


def _without_negative_zero(number: str) -> str:
    return number if number.strip("-0.") else number.removeprefix("-")
