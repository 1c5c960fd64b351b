"""Traces networks into graphs in which no operation changes its inputs."""

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from spqformat import Reason, SpqError
from spqformat.errors import first_line
from spqtools.silence import silence

_ATEN = torch.ops.aten
_BATCH_NORM = _ATEN.batch_norm.default
# What becomes of it on the way; its first result is the norm's.
_NORM_OF_INFERENCE = _ATEN._native_batch_norm_legit_no_training.default


def capture(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Trace a network in evaluation mode, with a free batch size where the network allows it.

    Parameters
    ----------
    module : nn.Module
        Network; it is put into evaluation mode.
    inputs : tuple of Tensor
        Example inputs, the first dimension the batch.

    Returns
    -------
    ExportedProgram
        The traced network, see `functional`.

    Raises
    ------
    SpqError
        `unsupported_model` when it cannot be traced.
    """
    module.eval()
    # Export specialises a dimension of size one.
    examples = tuple(_at_least_two(tensor) for tensor in inputs)
    free = tuple({0: torch.export.Dim.AUTO} if tensor.ndim else None for tensor in examples)
    try:
        traced = torch.export.export(module, examples, dynamic_shapes=free, strict=False)
    except Exception as error:  # the tracer raises whatever the network or torch raises
        raise SpqError(
            Reason.UNSUPPORTED_MODEL,
            f"torch.export cannot trace the network on these inputs ({first_line(error)})",
        ) from error
    return functional(traced)


def functional(program: ExportedProgram) -> ExportedProgram:
    """Replace operations that change their inputs, such as ``relu_``, by those that do not.

    The search keeps values and runs the rest of the network from them again and again, and a
    stored program has functional operations alone.

    Parameters
    ----------
    program : ExportedProgram
        Traced network.

    Returns
    -------
    ExportedProgram
        The same network; the same object where it is functional already.

    Raises
    ------
    SpqError
        `unsupported_model` when PyTorch cannot do that.
    """
    if not any(_is_mutable(node) for node in program.graph.nodes):
        return program
    try:
        with silence():
            program = program.run_decompositions({})
    except Exception as error:  # PyTorch raises whatever its passes raise
        raise SpqError(
            Reason.UNSUPPORTED_MODEL,
            "the network changes values in place, and PyTorch cannot trace it without that "
            f"({first_line(error)})",
        ) from error
    for node in list(program.graph.nodes):
        if node.target is _NORM_OF_INFERENCE:
            _restore_norm(program, node)
    program.graph_module.recompile()
    return program


def keeps_state(program: ExportedProgram) -> bool:
    """Tell whether a traced network changes buffers or inputs while it runs."""
    specs = program.graph_signature.output_specs
    return any(spec.kind is not OutputKind.USER_OUTPUT for spec in specs)


def _is_mutable(node: fx.Node) -> bool:
    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _restore_norm(program: ExportedProgram, norm: fx.Node) -> None:
    """Write a batch normalisation as the one operation that it was."""
    *tensors, momentum, eps = norm.args
    with program.graph.inserting_before(norm):
        plain = program.graph.call_function(
            _BATCH_NORM, (*tensors, False, momentum, eps, False), name=f"{norm.name}_plain"
        )
    for user in list(norm.users):
        plain.meta.update(user.meta)
        user.replace_all_uses_with(plain)
        program.graph_signature.replace_all_uses(user.name, plain.name)
        program.graph.erase_node(user)
    program.graph.erase_node(norm)


def _at_least_two(tensor: Tensor) -> Tensor:
    """Return at least two samples."""
    return torch.cat([tensor, tensor]) if tensor.ndim and tensor.shape[0] == 1 else tensor
