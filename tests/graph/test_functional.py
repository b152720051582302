"""In-place operations are renamed away where nobody holds a view; else PyTorch functionalizes. Neither changes the
result; the first is what makes capture fast."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from networks import random_images
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export

from quant_sweep.graph.functional import functional, inlined
from quant_sweep.graph.interpret import Network, relative_difference
from quant_sweep.graph.program import graph_of


class Net(nn.Module):
    def __init__(self, operation) -> None:
        super().__init__()
        self.operation, self.conv = operation, nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(self.conv(x))


def exported(operation) -> tuple[nn.Module, ExportedProgram]:
    model = Net(operation).eval()
    shapes = ({0: Dim("images", min=1, max=64)},)
    with torch.no_grad():
        return model, export(model, (random_images(2, 3, 8, 8),), dynamic_shapes=shapes, strict=False)


def in_place_nodes(program: ExportedProgram) -> list[fx.Node]:
    schemas = ((node, getattr(node.target, "_schema", None)) for node in program.graph.nodes)
    return [node for node, schema in schemas if schema is not None and schema.is_mutable]


def twice(y: Tensor) -> Tensor:
    y.relu_()
    y.mul_(2)
    return y + y.size(0) * 0


def read_before_and_after(y: Tensor) -> Tensor:
    before = F.silu(y)
    y.add_(before)
    return before + y


def added_onto_a_branch(y: Tensor) -> Tensor:
    z = F.relu(y)
    y += z
    z += y
    return y * z


def view_before(y: Tensor) -> Tensor:
    view = y[:, :2]
    y.relu_()
    return view


def view_between(y: Tensor) -> Tensor:
    y.relu_()
    view = y.flatten(1)
    y.add_(1)
    return view


def view_written(y: Tensor) -> Tensor:
    y.chunk(2, 1)[0].relu_()
    return y


def reshaped_and_written(y: Tensor) -> Tensor:
    z = y.reshape(y.size(0), -1)
    z.clamp_(0, 1)
    return y


def contiguous_is_the_same_tensor(y: Tensor) -> Tensor:
    z = y.contiguous()
    z.relu_()
    return y


def whole_numbers_too(y: Tensor) -> Tensor:
    z = (y > 0).long()
    z += 1
    return y * z


def out(y: Tensor) -> Tensor:
    z = torch.empty_like(y)
    torch.mul(y, 2, out=z)
    return z


def out_onto_a_result(y: Tensor) -> Tensor:
    z = F.relu(y)
    torch.mul(y, 2, out=z)
    return y + z


def out_of_a_list(y: Tensor) -> Tensor:
    z = torch.cat([y, y], 1)
    torch.cat([y * 2, y], 1, out=z)
    return z


@pytest.mark.parametrize(
    "operation",
    [
        twice,
        read_before_and_after,
        added_onto_a_branch,
        contiguous_is_the_same_tensor,
        F.relu_,
        lambda y: F.dropout(y, training=False, inplace=True),
    ],
)
@torch.no_grad()
def test_renamed_where_there_are_no_views(operation) -> None:
    model, program = exported(operation)
    with patch.object(ExportedProgram, "run_decompositions", side_effect=AssertionError("slow")):
        program = functional(program)
    x = random_images(3, 3, 8, 8)
    assert relative_difference(program.graph_module(*_parameters(program), x)[0], model(x)) < 1e-6


@pytest.mark.parametrize(
    "operation",
    [
        view_before,
        view_between,
        view_written,
        reshaped_and_written,
        whole_numbers_too,
        out,
        out_onto_a_result,
        out_of_a_list,
    ],
)
@torch.no_grad()
def test_left_to_pytorch_where_memory_may_be_shared(operation) -> None:
    model, program = exported(operation)
    with patch.object(
        ExportedProgram, "run_decompositions", autospec=True, side_effect=ExportedProgram.run_decompositions
    ) as decompose:
        program = functional(program)
    assert decompose.called
    assert not in_place_nodes(program)
    x = random_images(3, 3, 8, 8)
    assert relative_difference(program.graph_module(*_parameters(program), x)[-1], model(x)) < 1e-6


def _parameters(program: ExportedProgram) -> list[Tensor]:
    signature = program.graph_signature
    names = [*signature.parameters, *signature.buffers]
    lifted = [program.constants[name] for name in signature.inputs_to_lifted_tensor_constants.values()]
    return [*(program.state_dict[name] for name in names), *lifted]


def nested(y: Tensor) -> Tensor:
    with torch.enable_grad():
        z = y.relu_()
        with torch.autocast("cpu", enabled=False):
            a, b = z.chunk(2, 1)
            a = a + 1
    return a * b + y[:, :2]


@torch.no_grad()
def test_regions_are_inlined() -> None:
    model, program = exported(nested)
    program = functional(inlined(program))
    assert all(node.op != "get_attr" for node in program.graph.nodes)
    x = random_images(3, 3, 8, 8)
    assert relative_difference(program.graph_module(*_parameters(program), x)[-1], model(x)) < 1e-6


def read_by_what_it_wrote_over(program: ExportedProgram) -> fx.Node:
    """The last in-place operation; its readers read the tensor that it wrote over now, which is the same memory."""
    write = in_place_nodes(program)[-1]
    (overwritten, *_) = write.args
    assert isinstance(overwritten, fx.Node)
    write.replace_all_uses_with(overwritten, delete_user_cb=lambda user: user is not write)
    return write


@pytest.mark.parametrize("operation", [twice, F.relu_, lambda y: F.silu(y) + y.mul_(2)])
@torch.no_grad()
def test_who_reads_a_tensor_later_reads_what_was_written_over_it(operation) -> None:
    model, program = exported(operation)
    write = read_by_what_it_wrote_over(program)
    assert not write.users
    with patch.object(ExportedProgram, "run_decompositions", side_effect=AssertionError("slow")):
        program = functional(program)
    x = random_images(3, 3, 8, 8)
    assert relative_difference(Network(graph_of(program, model, "Net"))(x), model(x)) < 1e-6
