"""A device that is none: tensors say they are elsewhere, and compute on the CPU, by torch's way of making devices.

What cuda refuses, it refuses: a CPU tensor that meets one of the device's, `.numpy()`, a CPU generator. What mps lacks
as well, it lacks within `without_float64`. It has no memory, speed or rounding of its own.

Importing this module registers the device, which is to happen before the first backward pass of a process: from then on
autograd has a queue for each device that there was.
"""

import functools
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class Unasked(_DummyBackendModule):
    def is_available(self):
        return False  # to whoever looks for an accelerator to take

    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]


NAME = "emulated"
_setup_privateuseone_for_python_backend(NAME, backend_module=Unasked())
DEVICE = torch.device(NAME, 0)
aten = torch.ops.aten
COPY, MOVE = aten.copy_.default, aten._to_copy.default
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
SINGLE = (aten.fill_.Tensor, aten.index_put_.default, aten._index_put_impl_.default, aten.masked_fill_.Tensor)
lacking = False


class DeviceTensor(Tensor):
    """A tensor on the device, around the CPU's `raw` that holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor):
        layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype}
        own = Tensor._make_wrapper_subclass(cls, raw.shape, device=DEVICE, **layout)
        own.raw = raw
        return own

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return compute(op, *args, **(kwargs or {}))

    def __repr__(self):
        return f"{self.raw!r} on {DEVICE}"

    def __format__(self, spec):
        return format(self.raw, spec)

    def __deepcopy__(self, memo):
        other = type(self)(self.raw.detach().clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            other = torch.nn.Parameter(other, self.requires_grad)
        return memo.setdefault(id(self), other)

    def numpy(self, **_):
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy. Use Tensor.cpu() first")

    def tolist(self):
        return self.raw.tolist()

    def data_ptr(self):
        return self.raw.data_ptr()


@contextmanager
def without_float64():
    """For the while, the device lacks what mps does: float64, even to copy from, and an SVD that works."""
    global lacking
    lacking = True
    try:
        yield
    finally:
        lacking = False


def compute(op, *args, **kwargs):
    """An operation that the device has part in, by its arguments or its result."""
    check(op, args, kwargs)
    own = {id(leaf.raw): leaf for leaf in leaves([args, *kwargs.values()]) if isinstance(leaf, DeviceTensor)}
    result = op(*mapped(unwrapped, args), **{name: mapped(unwrapped, x) for name, x in kwargs.items()})
    if op is COPY:
        return args[0]
    if op is aten._local_scalar_dense.default or torch.device(kwargs.get("device") or DEVICE).type != NAME:
        return result

    def wrapped(x):
        if not isinstance(x, Tensor):
            return x
        if lacking and x.dtype == torch.float64:
            raise TypeError(f"{op} would make float64, which the device does not have")
        known = own.get(id(x))
        assert known is None or known.shape == x.shape, f"{op} changes a shape in place: this is not emulated"
        return DeviceTensor(x) if known is None else known

    return mapped(wrapped, result)


def check(op, args, kwargs):
    """Raise what a device would."""
    given = leaves([args, *kwargs.values()])
    if any(isinstance(leaf, torch.Generator) and leaf.device.type != NAME for leaf in given):
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
    if op in (COPY, MOVE):
        source, dtype = (args[1], args[0].dtype) if op is COPY else (args[0], kwargs.get("dtype"))
        if lacking and isinstance(source, DeviceTensor) and dtype == torch.float64:
            raise TypeError("the device has no float64 to copy from")
        return
    if lacking and "linalg_svd" in op.name():
        raise NotImplementedError(f"{op} is not there, or wrong")
    index = args[1] if op in INDEXED and isinstance(args[0], DeviceTensor) else ()
    near = [leaf for leaf in given if isinstance(leaf, Tensor) and not isinstance(leaf, DeviceTensor)]
    near = [leaf for leaf in near if not any(leaf is each for each in index)]  # may be on the CPU
    changed = args[0] if op._schema.is_mutable and args else None
    scalars = torch.Tag.pointwise in op.tags or op in SINGLE
    if any(leaf is changed or leaf.ndim or not scalars for leaf in near):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {op} got some on {DEVICE} and on cpu")


def leaves(x):
    """What lists within lists hold."""
    return [leaf for part in x for leaf in leaves(part)] if isinstance(x, list | tuple) else [x]


def mapped(function, x):
    """Lists within lists, with the function applied to what they hold."""
    return type(x)(mapped(function, part) for part in x) if isinstance(x, list | tuple) else function(x)


def unwrapped(x):
    return x.raw if isinstance(x, DeviceTensor) else torch.device("cpu") if isinstance(x, torch.device) else x


def copied(source, target, non_blocking=False):
    return compute(COPY, target, source)


KERNELS = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")  # are there as long as these are
KERNELS[1].fallback(compute, "PrivateUse1")
KERNELS[0].impl(aten._copy_from.default, copied, "PrivateUse1")  # torch.tensor goes around __torch_dispatch__
begun_empty = aten.arange.default, aten.arange.start, aten.arange.start_step, aten.eye.default, aten.eye.m
for made in (*begun_empty, aten._local_scalar_dense.default):
    KERNELS[0].impl(made, functools.partial(compute, made), "PrivateUse1")
# attention rounds as on the CPU, whose kernel is of its own; no gradients are passed
attention = functools.partial(compute, aten.scaled_dot_product_attention.default)
KERNELS[0].impl(aten.scaled_dot_product_attention.default, attention, "AutogradPrivateUse1")
