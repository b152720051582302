"""An explanation as a document: words and tables, from the first code to the last."""

from __future__ import annotations

from collections.abc import Sequence

from quant_sweep.explain.by_hand import Example, Requantization, Term
from quant_sweep.explain.follow import Arithmetic
from quant_sweep.explain.layer import Explanation
from quant_sweep.explain.steps import Extent, Intermediate
from quant_sweep.explain.tensor_sections import activation_section, weight_section
from quant_sweep.explain.wording import layer_kind, number, percent, span, times, whole, whole_span
from quant_sweep.report.document import Block, Chain, Document, Heading, Paragraph, Table

_TERMS_SHOWN = 36  # a longer sum is cut in the middle
_PER_LINE = 9


def page(explanation: Explanation) -> Document:
    """The whole page of one layer."""
    setting = " ".join(f"`{name}={value}`" for name, value in explanation.setting.items())
    kind = layer_kind(explanation.operation, explanation.shape)
    first = f" (the first of {explanation.calls} calls)" if explanation.calls > 1 else ""
    blocks: list[Block] = [
        Paragraph(f"{kind[0].upper()}{kind[1:]}{first}; {setting}"),
        *_dataflow(explanation.arithmetic),
        *_accumulator(explanation.arithmetic),
        *_numbers(explanation.arithmetic),
        *_whole_sum(explanation.arithmetic),
        *weight_section(explanation),
    ]
    for part, study in explanation.activations.items():
        blocks += activation_section(part, study)
    return Document(f"{explanation.layer}, step by step", tuple(blocks))


def _dataflow(arithmetic: Arithmetic) -> list[Block]:
    engine = (
        "Whole numbers are those of the engine `integer`; the engines `simulate` and `int8` get the same codes but for "
        "rounding."
        if not arithmetic.refusal
        else f"The engine `integer` does not compute this layer: {arithmetic.refusal}. The sums below are exact, bias "
        "and rounding those of `simulate`, in float32."
    )
    note = (
        f"Values seen while {arithmetic.images} calibration samples pass through the quantized network. A code `q` "
        "stands for `r = s · (q − z)`, scale `s`, zero-point `z`; `x` is the input, `w` the weight, `y` the output. "
        f"Shapes are those of one sample. {engine}"
    )
    headers = ("step", "how", "shape", "type", "bits", "codes", "real values", "scale", "zero-point")
    rows = tuple(_row(step) for step in arithmetic.steps)
    return [
        Heading("The dataflow"),
        Chain(_boxes(arithmetic)),
        Paragraph(note),
        Table(headers, rows, words=("how",)),
    ]


def _row(step: Intermediate) -> tuple[str, ...]:
    bits = str(step.bits) if step.needed is None else f"{step.needed} of {step.bits}"
    zero_point = "" if step.zero_point is None else str(step.zero_point)
    numbers = (whole_span(step.codes), span(step.real), span(step.scale), zero_point)
    return (step.step, step.formula, times(step.shape), step.dtype, bits, *numbers)


def _boxes(arithmetic: Arithmetic) -> tuple[tuple[str, ...], ...]:
    """The main lines of the dataflow."""
    main = ("input", "input codes", "accumulator", "before the clamp", "output codes", "dequantized")
    after = arithmetic.steps[-len(arithmetic.numbers[0].after) :] if arithmetic.numbers[0].after else ()
    chosen = [step for step in arithmetic.steps if step.step in main or step in after]
    return tuple(_box(step) for step in chosen)


def _box(step: Intermediate) -> tuple[str, ...]:
    width = f"{step.bits} bits" if step.needed is None else f"{step.needed} of {step.bits} bits"
    values = span(step.real) if step.codes is None else whole_span(step.codes)
    return (step.step, f"{step.dtype}, {width}" if step.codes else step.dtype, values)


def _accumulator(arithmetic: Arithmetic) -> list[Block]:
    rows = tuple(
        (f"`{r.what}`", _between(r.seen), f"{r.bits_seen} of 32", _between(r.worst), f"{r.bits_worst} of 32")
        for r in arithmetic.registers
    )
    table = Table(("sum", "seen", "bits", "at worst", "bits"), rows)
    needed = max(register.bits_worst for register in arithmetic.registers)
    verdict = (
        f"32 bits cannot overflow here: {needed} are enough for any input."
        if needed <= 32
        else f"An input that needs {needed} bits is possible: 32 bits are not enough."
    )
    shift = (
        " The accumulator is kept in units of `s_x · s_w / 2^k`: so fine that rounding the bias does not show in the "
        "result, or so coarse that a large bias fits into 32 bits."
        if any(n.shift for n in arithmetic.numbers)
        else ""
    )
    note = (
        f"Each output is a sum of {arithmetic.terms} products. Bits are those of a signed register, its sign "
        "included. At worst means: if every code were the one that drives the sum furthest. Partial sums may "
        f"overflow: in two's complement only the final sum has to fit. {verdict}{shift}"
    )
    return [Heading("What the accumulator needs"), table, Paragraph(note)]


def _between(ends: tuple[int, int]) -> str:
    return whole_span(Extent(*ends))


def _numbers(arithmetic: Arithmetic) -> list[Block]:
    numbers, x = arithmetic.numbers, arithmetic.stored
    place = "place: sample, channel, row, column" if len(numbers[0].place) == 4 else "place: sample, then axis by axis"
    rows: list[tuple[str, ...]] = [
        (place, *map(_place, numbers)),
        ("`x` of its largest product", *(number(_largest(n).x) for n in numbers)),
        (f"→ code `{x}`", *(whole(_largest(n).x_code) for n in numbers)),
        ("`w` of its largest product", *(number(_largest(n).weight) for n in numbers)),
        ("→ code `q_w`", *(whole(_largest(n).weight_code) for n in numbers)),
        *_summed(numbers, x),
        *_requantized([n.requantization for n in numbers if n.requantization is not None]),
        ("in real units, not rounded" if arithmetic.refusal else "dequantized", *(number(n.real) for n in numbers)),
        ("float network", *(number(n.original) for n in numbers)),
        ("difference", *(number(n.real - n.original, 2) for n in numbers)),
        ("`simulate`, not rounded", *(number(n.simulated) for n in numbers)),
    ]
    if numbers[0].simulated_code is not None:
        rows.append(("`simulate`, its code", *(_code(n.simulated_code) for n in numbers)))
    if arithmetic.agreements and any(n.engine_code is not None for n in numbers):
        name = arithmetic.agreements[-1].other
        rows.append((f"`{name}`, its code", *(_code(n.engine_code) for n in numbers)))
    table = Table(("", *(n.why for n in numbers)), tuple(rows + _after(numbers)))
    return [Heading("Numbers computed by hand"), table, Paragraph(" ".join(_agreement(arithmetic)))]


def _summed(numbers: Sequence[Example], x: str) -> list[tuple[str, ...]]:
    """From the products to the accumulator."""
    rows: list[tuple[str, ...]] = [(f"`Σ {x} · q_w`", *(whole(n.sum) for n in numbers))]
    shifted = any(n.shift for n in numbers)
    if shifted:
        rows.append(("`k`", *(whole(n.shift) for n in numbers)))
        rows.append((f"`2^k · Σ {x} · q_w`", *(whole(n.shifted) for n in numbers)))
    if any(n.correction for n in numbers):
        rows.append((f"`−{' 2^k ·' if shifted else ''} z · Σ q_w`", *(whole(-n.correction) for n in numbers)))
    if any(n.bias_code for n in numbers):
        rows.append(("`+ b_q`, the bias", *(f"{_code(n.bias_code)} (for {number(n.bias)})" for n in numbers)))
    return [*rows, ("`= acc`, int32", *(whole(n.accumulator) for n in numbers))]


def _requantized(numbers: Sequence[Requantization]) -> list[tuple[str, ...]]:
    if not numbers:
        return []
    rows: list[tuple[str, ...]] = [
        ("`M`", *(number(n.factor, 7) for n in numbers)),
        ("`M0 · 2³¹`, int32", *(str(n.multiplier) for n in numbers)),
        ("shift to the right", *(whole(n.shift) for n in numbers)),
        ("`acc · M`, rounded", *(whole(n.product) for n in numbers)),
    ]
    if any(n.residual_code is not None for n in numbers):
        rows.append(("residual code `q_r`", *(_code(n.residual_code) for n in numbers)))
        rows.append(("`+ (q_r − z_r) · s_r / s_y · 2^12`, rounded", *(_code(n.residual_product) for n in numbers)))
        rows.append(("`/ 2^12`, rounded", *(_code(n.steps) for n in numbers)))
    if any(n.code is not None for n in numbers):
        rows.append(("`+ z_y`", *(_code(n.before_clamp) for n in numbers)))
        rows.append(("clamped: output code `q_y`", *(_code(n.code) for n in numbers)))
    return rows


def _after(numbers: Sequence[Example]) -> list[tuple[str, ...]]:
    rows = []
    for stages in zip(*(n.after for n in numbers), strict=True):
        label = stages[0].step
        codes = ["" if s.code is None else f" → code {whole(s.code)}" for s in stages]
        rows.append((f"then {label}", *(number(s.real) + code for s, code in zip(stages, codes, strict=True))))
        rows.append(("float network there", *(number(s.original) for s in stages)))
    return rows


def _agreement(arithmetic: Arithmetic) -> list[str]:
    """What the numbers are, and how far other engines are from them on all images."""
    if arithmetic.refusal:
        return ["Sum and zero-point are whole numbers; the bias is added in float."]
    sentences = [
        "`M0 · 2³¹` and the shift are the fixed-point form of `M`: `acc · M = acc · (M0 · 2³¹) / 2^(31 + shift)`."
    ]
    if arithmetic.numbers[0].requantization and arithmetic.numbers[0].requantization.residual_code is not None:
        sentences.append("Both terms of the sum are held in parts of 2^-12 of an output step until they are added.")
    if arithmetic.agreements:
        compared = arithmetic.agreements[0].compared
        parts = [
            f"{whole(a.differing)} ({percent(a.differing / a.compared)}) differ from those of `{a.other}`, "
            f"by {a.largest} at most"
            if a.differing
            else f"none differs from those of `{a.other}`"
            for a in arithmetic.agreements
        ]
        sentences.append(
            f"Of {whole(compared)} output codes of {arithmetic.images} samples, computed like this from the same "
            f"inputs, {'; '.join(parts)}. `integer` rounds bias, product and result, `simulate` the result alone."
        )
    return sentences


def _whole_sum(arithmetic: Arithmetic) -> list[Block]:
    example = arithmetic.numbers[0]
    terms = example.terms
    lines = [terms[i : i + _PER_LINE] for i in range(0, len(terms), _PER_LINE)]
    cut = len(terms) > _TERMS_SHOWN
    shown = [*lines[:2], *lines[-1:]] if cut else lines
    rows = [_line(line) for line in shown]
    if cut:
        middle = [term for line in lines[2:-1] for term in line]
        rows.insert(2, (f"… {len(middle)} more …", whole(sum(term.product for term in middle))))
    rows.append((f"`Σ {arithmetic.stored} · q_w`", whole(example.sum)))
    order = f"Every product of the first number, in the order of the weight's entries: `{arithmetic.stored} × q_w`."
    note = order + _padding(terms)
    table = Table(("products", "sum"), tuple(rows), words=("products",))
    return [Heading("The whole sum of one of them"), Paragraph(note), table]


def _line(terms: Sequence[Term]) -> tuple[str, str]:
    products = " + ".join(f"{term.x_code}×{_signed(term.weight_code)}" for term in terms)
    return products, whole(sum(term.product for term in terms))


def _padding(terms: Sequence[Term]) -> str:
    padding = sum(term.place is None for term in terms)
    return f" {padding} of its inputs are zeros of the padding, with the code of 0.0." if padding else ""


def _signed(code: int) -> str:
    return f"(−{-code})" if code < 0 else str(code)


def _largest(example: Example) -> Term:
    return max(example.terms, key=lambda term: abs(term.x * term.weight))


def _place(example: Example) -> str:
    return ", ".join(str(index) for index in example.place)


def _code(code: int | None) -> str:
    return "" if code is None else whole(code)
