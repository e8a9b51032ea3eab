"""What TensorRT does with adds, pools and whatever has no weights: a function and a source a rule."""

from typing import Any

from rescompress.backends._tensorrt_rules import ISSUES, NVIDIA, PLACEMENT, Finding
from rescompress.backends._tensorrt_view import ACTIVATIONS, DEQUANTIZE, MOVES, QUANTIZE, View, name_of

RESIDUAL = (
    "https://github.com/NVIDIA/TensorRT/blob/main/tools/pytorch-quantization/docs/source/tutorials/quant_resnet50.rst"
    " (Further optimization)"
)
QUANTIZABLE = f"{NVIDIA} (Processing of Q/DQ Networks)"
INTEGER_OPS = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm")

Verdict = tuple[bool, str, Finding | None]
"""Whether a node computes in INT8; the rule that decided, as a sentence; the rule that it breaks."""


def carrier_of(view: View, add: Any) -> Any:
    """The convolution that makes one input of an add and is read by it alone, perhaps behind a BatchNorm; or None.

    Of two, the later one: when it runs, the other's sum is there.

    Args:
        view: of the graph.
        add: a node of it that adds two activations.
    """
    found = []
    for source in add.input:
        maker = view.maker(source)
        if maker is not None and maker.op_type == "BatchNormalization" and view.alone_behind(maker) is not None:
            maker = view.maker(maker.input[0])
        if maker is not None and maker.op_type == "Conv" and view.alone_behind(maker) is not None:
            found.append(maker)
    return max(found, key=view.place, default=None)


def judge_add(view: View, add: Any, carrier: Any, carrier_is_int8: bool) -> Verdict:
    """How a residual add computes.

    Args:
        view: of the graph.
        add: a node of it that adds two activations.
        carrier: ``carrier_of`` it.
        carrier_is_int8: what that convolution computes in.
    """
    if carrier is None:
        return _add_alone(view, add)
    own = {carrier.output[0], *(out for reader in [view.alone_behind(carrier)] for out in reader.output)}
    (residual,) = [source for source in add.input if source not in own] or [add.input[0]]
    integer = view.dequantizer(residual) is not None
    if not carrier_is_int8:
        return False, "The convolution that takes it computes in float.", None
    if not integer:
        said = f"Its other input ({residual}) isn't quantized, so the convolution before it writes and adds floats."
        source = f"{RESIDUAL}, {ISSUES}/1992"
        return False, said, Finding(name_of(add), "residual_is_quantized", "int8", said, source)
    if not view.leaves_as_integers(_behind_activation(view, add)):
        said = (
            "Its other input is INT8 and what it makes isn't: a fused add writes what its residual is, so the residual"
            " is turned into floats first."
        )
        return False, said, Finding(name_of(add), "sum_is_quantized", "fusion", said, RESIDUAL)
    return True, "The convolution before it adds an INT8 residual to its own sum and writes INT8.", None


def _add_alone(view: View, add: Any) -> Verdict:
    """How an add computes that no convolution takes into its kernel."""
    integer = [view.dequantizer(source) is not None for source in add.input]
    if not any(integer):
        return False, "Neither input is INT8.", None
    if not all(integer):
        (other,) = [source for source, is_integer in zip(add.input, integer, strict=True) if not is_integer]
        said = f"One input is INT8, the other ({other}) is made by no convolution that could add it: it adds floats."
        return False, said, Finding(name_of(add), "convolution_carries_add", "fusion", said, PLACEMENT)
    broken = next((source for source in add.input if _is_requantized_convolution(view, source)), None)
    closed = view.leaves_as_integers(_behind_activation(view, add))
    verdict = "Both inputs are INT8, " + ("and so is its output." if closed else "but its output is float.")
    if broken is None:
        return closed, verdict, None
    said = "Q and DQ stand between it and the convolution before it, so that it has a kernel of its own."
    source = f"{PLACEMENT}, {ISSUES}/3270"
    return closed, said, Finding(name_of(add), "nothing_between_layer_and_add", "fusion", said, source)


def _is_requantized_convolution(view: View, value: str) -> bool:
    """Whether a value comes by Q and DQ from a convolution that nobody else reads."""
    reader = view.maker(value)
    pair = view.maker(reader.input[0]) if reader is not None and reader.op_type == DEQUANTIZE else None
    maker = view.maker(pair.input[0]) if pair is not None and pair.op_type == QUANTIZE else None
    while maker is not None and maker.op_type == "BatchNormalization":
        maker = view.maker(maker.input[0])
    return maker is not None and maker.op_type == "Conv" and view.sole_reader(value) is not None


def _behind_activation(view: View, node: Any) -> str:
    """The value that leaves a node's kernel: behind its ReLU, if it has one."""
    behind = view.alone_behind(node)
    taken = behind is not None and behind.op_type in ACTIVATIONS
    return str(behind.output[0] if taken else node.output[0])


def judge_pool(view: View, pool: Any) -> Verdict:
    """How a pool computes.

    Args:
        view: of the graph.
        pool: a node of it.
    """
    reads, writes = view.dequantizer(pool.input[0]) is not None, view.leaves_as_integers(pool.output[0])
    if pool.op_type == "MaxPool":
        if reads or writes:
            return True, "Pooling by maximum commutes with Q and DQ.", None
        return False, "It neither reads nor writes INT8.", None
    if pool.op_type == "AveragePool" and reads and writes:
        return True, "The DQ before it and the Q behind it fuse with it.", None
    if pool.op_type == "AveragePool":
        return False, "An average in INT8 needs a DQ before and a Q behind it.", None
    return (
        False,
        f"Global pooling is a Reduce layer: it reads {'INT8' if reads else 'floats'} and averages floats.",
        None,
    )


def normalization_follows_convolution(view: View, node: Any) -> Finding | None:
    """A BatchNorm folds into the convolution before it; elsewhere it is a float kernel between integers."""
    if node.op_type != "BatchNormalization":
        return None
    maker = view.maker(node.input[0])
    if maker is not None and maker.op_type in ("Conv", "ConvTranspose") and view.alone_behind(maker) is not None:
        return None
    said = "It is behind no convolution that it could fold into: a float kernel of its own, with the ReLU behind it."
    return Finding(name_of(node), "normalization_follows_convolution", "fusion", said, f"{ISSUES}/3104")


def no_integer_operators(view: View, node: Any) -> Finding | None:
    """The parser takes Q/DQ, not operators that compute in integers, nor ranges found while the network runs."""
    if node.op_type not in INTEGER_OPS:
        return None
    said = f"The parser has no {node.op_type}: integers are said by Q and DQ whose scales are stored."
    return Finding(name_of(node), "no_integer_operators", "build", said, f"{NVIDIA} (ONNX Support), {ISSUES}/4698")


def no_round_trip(view: View, node: Any) -> Finding | None:
    """An op that has no INT8 kernel gains nothing from a Q/DQ pair at its input (inferred)."""
    if node.op_type not in ("Sigmoid", "HardSigmoid", "Mul", "Softmax"):
        return None
    active = [value for value in node.input if not view.is_constant(value)]
    if all(view.dequantizer(value) is None for value in active):
        return None
    said = f"{node.op_type} computes in float: Q and DQ before it round and gain nothing."
    return Finding(name_of(node), "no_round_trip", "speed", said, f"{PLACEMENT} (inferred)")


def every_reader_reads_integers(view: View, node: Any) -> Finding | None:
    """A kernel writes INT8 only if all its readers take that: with one float reader, Q is a kernel more (inferred)."""
    if node.op_type in (*MOVES, QUANTIZE, DEQUANTIZE):
        return None
    kinds = {view.leads_to_integers(reader) for reader in view.readers(node.output[0])}
    if kinds != {True, False} or view.is_constant(node.output[0]):
        return None
    said = "Some read what it makes through Q and DQ, others as floats: it writes floats, and Q is a kernel of its own."
    return Finding(name_of(node), "every_reader_reads_integers", "fusion", said, f"{PLACEMENT} (inferred)")


ELSEWHERE = (normalization_follows_convolution, no_integer_operators, no_round_trip, every_reader_reads_integers)
"""Rules of any node."""
