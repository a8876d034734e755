"""An accelerator that is not there: a device of torch of its own, whose kernels run on the CPU.

torch has a place for a private device, and lets Python register it. Its tensors here are what those
of a GPU are, plain ``torch.Tensor`` with the device's dispatch key and a storage on the device, so
autograd, views, ``vmap``, optimizers, copies and checkpoints take the ways they take on a GPU. Only
the memory is the CPU's: a kernel looks at it as CPU tensors, calls the CPU's kernel and hands its
result back. So values are equal, bit for bit, and what is wrong on a GPU is wrong here:

- tensors of two devices in one operation, except what CUDA allows: numbers (0-d) on the CPU in
  elementwise operations, and indices on the CPU;
- ``.numpy()`` and ``numpy.asarray`` of a tensor of the device;
- a generator of one device with tensors of the other, each way;
- a checkpoint that is read back without ``map_location`` comes back on the device, and its random
  state is its own: a run that does not store it does not resume with the same bits.

``switch_on`` cannot be undone in a process. It needs the registration of torch 2.9 or newer.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "emulated"
PLACE = f"{NAME}:0"

_ON_DEVICE, _ON_CPU = 12, 1  # DLPack's kDLExtDev and kDLCPU
_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)

aten = torch.ops.aten
Op = Any


def switch_on() -> None:
    """Put the device in the place of an accelerator, for this process."""
    if hasattr(torch, NAME):
        return
    _setup_privateuseone_for_python_backend(NAME, Backend())
    _register_kernels()
    _patch_python()


# --- Memory: one block, seen from the device and from the CPU -------------------------------------


def _moved(tensor: Tensor, kind: int) -> Tensor:
    """The same memory as a tensor of the other device; it keeps the given one alive."""
    capsule = torch._C._to_dlpack(tensor)
    where = (ctypes.c_int32 * 2).from_address(_get_pointer(capsule, b"dltensor") + 8)
    where[0], where[1] = kind, 0
    return torch._C._from_dlpack(capsule)  # type: ignore[no-any-return]


def on_device(values: Tensor) -> Tensor:
    """A tensor of the device in the memory of a CPU tensor; strides are kept."""
    if values.dtype == torch.float64 and not torch.emulated.has_float64:  # type: ignore[attr-defined]
        raise TypeError(f"{PLACE} has no float64, as MPS")
    moved = _moved(values, _ON_DEVICE)
    if moved.stride() != values.stride():  # DLPack forgets the strides of dimensions of one
        moved = aten.as_strided_.default(moved, values.shape, values.stride(), 0)
    return moved


def on_cpu(tensor: Tensor) -> Tensor:
    """A CPU tensor in the memory of a tensor of the device, with its strides and offset."""
    if tensor.numel() == 0:  # its own memory, which may grow
        return torch.empty(0, dtype=tensor.dtype).view(tensor.shape)
    numel = tensor.untyped_storage().nbytes() // tensor.element_size()
    whole = aten.as_strided_.default(aten.alias.default(tensor), (numel,), (1,), 0)
    flat = _moved(whole, _ON_CPU)
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _is_there(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == NAME


# --- Kernels --------------------------------------------------------------------------------------

COPIES = {"aten::_copy_from", "aten::_copy_from_and_resize", "aten::copy_"}
INDEXED = {
    "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_",
    "aten::_unsafe_index", "aten::_unsafe_index_put",
}  # fmt: skip
NUMBERS_TOO = {
    "aten::where", "aten::fill", "aten::fill_", "aten::masked_fill", "aten::masked_fill_",
    "aten::lerp", "aten::lerp_", "aten::index_fill", "aten::index_fill_", "aten::linspace",
}  # fmt: skip
"""Operations that take a number on the CPU beside tensors of CUDA, and have no tag that says so."""


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _check_one_device(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    given = list(_tensors((*args, *kwargs.values())))
    strangers = [one for one in given if one.device.type != NAME]
    if not strangers:
        return
    name = op._schema.name
    if name in COPIES:
        return
    if name in INDEXED:
        indexed, indices = args[0], set(map(id, _tensors([args[1]])))
        if indexed.device.type != NAME and any(map(_is_there, _tensors([args[1]]))):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the indexed tensor "
                f"({indexed.device})"
            )
        strangers = [one for one in strangers if id(one) not in indices and one.dim() > 0]
    elif torch.Tag.pointwise in op.tags or name in NUMBERS_TOO:
        written = [id(a) for a in _written(op, args, kwargs)]
        strangers = [one for one in strangers if one.dim() > 0 or id(one) in written]
    if strangers:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{PLACE} and {strangers[0].device}! (in {name})"
        )


def _written(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[Tensor]:
    for position, argument in enumerate(op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from _tensors([value])


@functools.cache
def _facts(op: Op) -> tuple[tuple[tuple[int, bool] | None, ...], int | None, bool, bool]:
    """What each result is of (argument, written) or None; the place of the generator among the
    keywords; whether it draws without one; whether it makes tensors of a device."""
    arguments = op._schema.arguments
    sources: list[tuple[int, bool] | None] = []
    for returned in op._schema.returns:
        source = None
        if returned.alias_info is not None:
            for position, argument in enumerate(arguments):
                info = argument.alias_info
                if info is not None and info.before_set & returned.alias_info.before_set:
                    source = (position, returned.alias_info.is_write)
        sources.append(source)
    names = [argument.name for argument in arguments]
    place = names.index("generator") if "generator" in names else None
    draws = place is None and torch.Tag.nondeterministic_seeded in op.tags
    return tuple(sources), place, draws, "device" in names


Seen = dict[int, tuple[Tensor, Tensor]]
"""Tensors of the device among the arguments of a call, each with what the CPU sees of it."""


def _here(value: Any, seen: Seen) -> Any:
    """An argument as the CPU's kernel takes it."""
    # Not a function inside of the kernel: one that calls itself would keep every tensor alive until
    # Python's collector comes, and memory is measured.
    if isinstance(value, Tensor):
        if value.device.type != NAME:
            return value
        if id(value) not in seen:
            seen[id(value)] = value, on_cpu(value)
        return seen[id(value)][1]
    if isinstance(value, tuple | list):
        return type(value)(_here(one, seen) for one in value)
    return value


def _there(result: Any, origin: Any, is_written: bool, seen: Seen) -> Any:
    """A result of the CPU's kernel as the device's: a new tensor, an argument, or a view of one."""
    if isinstance(result, tuple | list):
        return type(result)(_there(one, origin, is_written, seen) for one in result)
    if not isinstance(result, Tensor):
        return result
    if origin is None:
        return on_device(result.detach() if result.requires_grad else result)
    if is_written:
        if isinstance(origin, Tensor):
            return origin
        return next(one for one, mirror in seen.values() if mirror is result)
    view = aten.alias.default(origin)
    return aten.as_strided_.default(view, result.shape, result.stride(), result.storage_offset())


def _kernel(op: Op, *args: Any, **kwargs: Any) -> Any:
    """Any operation: the CPU's kernel on the same memory."""
    _check_one_device(op, args, kwargs)
    sources, place, draws, has_device = _facts(op)
    seen: Seen = {}
    values = [_here(value, seen) for value in args]
    named = {name: _here(value, seen) for name, value in kwargs.items()}
    if has_device:
        named["device"] = torch.device("cpu")
        if "pin_memory" in named:
            named["pin_memory"] = None
    backend = torch.emulated  # type: ignore[attr-defined]
    if place is not None:
        asked = values[place] if place < len(values) else named.get("generator")
        drawing = backend.default_generator if asked is None else asked
        if drawing._cdata not in backend.generators:
            raise RuntimeError(
                f"Expected a '{NAME}' device type for generator but found '{asked.device.type}'"
            )
        if place < len(values):
            values[place] = drawing
        else:
            named["generator"] = drawing
    if draws:
        with backend.drawing():
            result = op(*values, **named)
    else:
        result = op(*values, **named)
    for given, mirror in seen.values():
        if mirror.shape != given.shape:  # an out= argument that was too small
            given.data = on_device(mirror)
    if not sources:
        return None
    found = []
    for one, source in zip([result] if len(sources) == 1 else result, sources, strict=True):
        origin, is_written = None, False
        if source is not None:
            position, is_written = source
            name = op._schema.arguments[position].name
            origin = args[position] if position < len(args) else kwargs[name]
        found.append(_there(one, origin, is_written, seen))
    return found[0] if len(sources) == 1 else tuple(found)


def _of_the_cpu(op: Op) -> Callable[..., Any]:
    """The CPU's kernel of an operation that looks at sizes and storages, but at no memory."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    return lambda *args, **kwargs: op.redispatch(keys, *args, **kwargs)


def _copy_from(self: Tensor, dst: Tensor, non_blocking: bool = False) -> Tensor:
    target = on_cpu(dst) if _is_there(dst) else dst
    target.copy_(on_cpu(self) if _is_there(self) else self)
    return dst


def _resize(self: Tensor, size: Any, memory_format: Any = None) -> Tensor:
    numel = torch.Size(size).numel()
    layout = torch.contiguous_format if memory_format is None else memory_format
    stride = torch.empty(size, device="meta", memory_format=layout).stride()
    if (numel + self.storage_offset()) * self.element_size() > self.untyped_storage().nbytes():
        grown = torch.empty(size, dtype=self.dtype)
        old = on_cpu(self).reshape(-1)
        grown.view(-1)[: old.numel()] = old[: grown.numel()]
        self.data = on_device(grown)
    return aten.as_strided_.default(self, size, stride, self.storage_offset())


def _convolution(*args: Any) -> Tensor:
    return _kernel(aten.convolution.default, *args)  # type: ignore[no-any-return]


def _convolution_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    *sizes, mask = rest
    bias_sizes = [weight.shape[1] * sizes[-1] if sizes[-3] else weight.shape[0]]
    return _kernel(  # type: ignore[no-any-return]
        aten.convolution_backward.default, grad_output, input, weight, bias_sizes, *sizes, mask
    )


def _lstm_cell(
    input_gates: Tensor, hidden_gates: Tensor, cx: Tensor, bias: Any = None, other: Any = None
) -> tuple[Tensor, ...]:
    gates = input_gates + hidden_gates
    if bias is not None:
        gates = gates + bias + other
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cy = f * cx + i * g
    return o * cy.tanh(), cy, torch.cat([i, f, g, o], 1)


def _lstm_cell_backward(
    grad_hy: Any, grad_cy: Any, cx: Tensor, cy: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Any, ...]:
    if grad_hy is None and grad_cy is None:
        return None, None, None
    i, f, g, o = workspace.chunk(4, 1)
    grad_hy = torch.zeros_like(cx) if grad_hy is None else grad_hy
    tanh = cy.tanh()
    inner = grad_hy * o * (1 - tanh * tanh) + (0 if grad_cy is None else grad_cy)
    parts = (
        inner * g * i * (1 - i), inner * cx * f * (1 - f),
        inner * i * (1 - g * g), grad_hy * tanh * o * (1 - o),
    )  # fmt: skip
    gates = torch.cat(parts, 1)
    return gates, inner * f, gates.sum(0) if has_bias else None


def _gru_cell(
    input_gates: Tensor, hidden_gates: Tensor, hx: Tensor, bias: Any = None, other: Any = None
) -> tuple[Tensor, ...]:
    if bias is not None:
        input_gates, hidden_gates = input_gates + bias, hidden_gates + other
    (ir, iz, new), (hr, hz, old) = input_gates.chunk(3, 1), hidden_gates.chunk(3, 1)
    r, z = (ir + hr).sigmoid(), (iz + hz).sigmoid()
    n = (new + r * old).tanh()
    return n + z * (hx - n), torch.cat([r, z, n, hx, old], 1)


def _gru_cell_backward(grad_hy: Tensor, workspace: Tensor, has_bias: bool) -> tuple[Any, ...]:
    r, z, n, hx, old = workspace.chunk(5, 1)
    new = grad_hy * (1 - z) * (1 - n * n)
    update = grad_hy * (hx - n) * z * (1 - z)
    reset = new * old * r * (1 - r)
    inputs, hiddens = torch.cat([reset, update, new], 1), torch.cat([reset, update, new * r], 1)
    biases = (inputs.sum(0), hiddens.sum(0)) if has_bias else (None, None)
    return inputs, hiddens, grad_hy * z, *biases


def _name(op: Op) -> str:
    name: str = op._schema.name.removeprefix("aten::")
    return name if op._overloadname == "default" else f"{name}.{op._overloadname}"


def _register_kernels() -> None:
    library = torch.library.Library("_", "IMPL")
    library.fallback(_kernel, "PrivateUse1")
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    own = torch.library.Library("aten", "IMPL")
    for name, kernel in {
        "_copy_from": _copy_from,
        "resize_": _resize,
        "convolution_overrideable": _convolution,
        "convolution_backward_overrideable": _convolution_backward,
        "_thnn_fused_lstm_cell": _lstm_cell,
        "_thnn_fused_lstm_cell_backward_impl": _lstm_cell_backward,
        "_thnn_fused_gru_cell": _gru_cell,
        "_thnn_fused_gru_cell_backward": _gru_cell_backward,
    }.items():
        own.impl(name, kernel, "PrivateUse1")
    for op in (
        aten.as_strided.default, aten.view.default, aten._reshape_alias.default,
        aten.unfold.default, aten.set_.source_Storage, aten.set_.source_Storage_storage_offset,
        aten.set_.source_Tensor,
    ):  # fmt: skip
        own.impl(_name(op), _of_the_cpu(op), "PrivateUse1")
    for name in ("linear", "matmul", "mm", "addmm", "bmm", "baddbmm", "conv1d", "conv2d", "conv3d"):
        for overload in getattr(aten, name).overloads():
            if overload in ("default", "padding"):
                op = getattr(getattr(aten, name), overload)
                own.impl(_name(op), functools.partial(_half, op), "AutocastPrivateUse1")
    KEPT.extend((library, own))


KEPT: list[Any] = []
"""Registrations live as long as these."""


def _half(op: Op, *args: Any, **kwargs: Any) -> Any:
    """What autocast does to a product: its tensors in the lower precision."""
    dtype = torch.get_autocast_dtype(NAME)

    def cast(value: Any) -> Any:
        return value.to(dtype) if _is_there(value) and value.is_floating_point() else value

    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    with torch._C._ExcludeDispatchKeyGuard(keys):
        return op(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})


# --- What torch asks a backend's module -----------------------------------------------------------


class Drawing:
    """Draws of operations that take no generator come from the device's."""

    def __init__(self, source: torch.Generator) -> None:
        self.source = source

    def __enter__(self) -> None:
        self.before = torch.get_rng_state()
        torch.set_rng_state(self.source.get_state())

    def __exit__(self, *error: object) -> None:
        self.source.set_state(torch.get_rng_state())
        torch.set_rng_state(self.before)


class Event:
    """A mark in a stream, which is over at once: every kernel here is."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.recorded = False

    def record(self, stream: Any = None) -> None:
        self.recorded = True

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: Event) -> float:
        return 0.0


class Stream:
    """A stream whose work is over at once; who waits for a mark that was not made is told."""

    def __init__(self, device: Any = None) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        if not event.recorded:
            raise RuntimeError("a stream waits for an event that was never recorded")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


class Backend:
    """``torch.emulated``."""

    Event, Stream = Event, Stream

    def __init__(self) -> None:
        self.generators: set[int] = set()
        """Generators of the device, by the address of what torch holds of them."""
        self.default_generator = DeviceGenerator()
        self.default_generator.register(self.generators)
        self.default_generator.manual_seed(0)
        self._stream = Stream()
        self.has_float64 = True
        """MPS has none: a test may say so."""
        self.synchronized = 0
        """How often somebody waited for the device."""

    def drawing(self) -> Drawing:
        return Drawing(self.default_generator)

    def current_stream(self, device: Any = None) -> Stream:
        return self._stream

    def stream(self, stream: Stream) -> Stream:
        return stream

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        self.default_generator.manual_seed(seed)

    def get_rng_state(self, device: Any = PLACE) -> Tensor:
        return self.default_generator.get_state()

    def set_rng_state(self, state: Tensor, device: Any = PLACE) -> None:
        self.default_generator.set_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def max_memory_allocated(self, device: Any = None) -> int:
        return 0

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        pass

    def get_device_name(self, device: Any = None) -> str:
        return "emulated accelerator"

    def synchronize(self, device: Any = None) -> None:
        self.synchronized += 1


# --- What Python must be taught, since torch asks C++ for it --------------------------------------

CPU_GENERATOR = torch.Generator


class DeviceGenerator(CPU_GENERATOR):  # type: ignore[misc, valid-type]
    """A generator that says it is the device's; it draws as the CPU's."""

    device = property(lambda self: torch.device(PLACE))  # type: ignore[assignment]

    def register(self, known: set[int]) -> None:
        self._known = known
        known.add(self._cdata)

    def __del__(self) -> None:
        self._known.discard(self._cdata)


class _AnyGenerator(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, CPU_GENERATOR)

    def __call__(cls, device: Any = "cpu") -> Any:
        if torch.device(device).type != NAME:
            return CPU_GENERATOR(device)
        made = DeviceGenerator()
        made.register(torch.emulated.generators)  # type: ignore[attr-defined]
        return made


class Generator(metaclass=_AnyGenerator):
    """``torch.Generator``, which also makes those of the device."""


DRAWS = (
    "rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson",
    "rand_like", "randn_like", "randint_like",
)  # fmt: skip
DRAWS_OF_TENSORS = (
    "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "geometric_", "cauchy_",
    "log_normal_", "bernoulli", "multinomial",
)  # fmt: skip


def _checked_draw(draw: Callable[..., Any]) -> Callable[..., Any]:
    """A draw that refuses the device's generator for the CPU's tensors."""

    @functools.wraps(draw)
    def checked(*args: Any, **kwargs: Any) -> Any:
        result = draw(*args, **kwargs)
        if isinstance(kwargs.get("generator"), DeviceGenerator) and not _is_there(result):
            raise RuntimeError(f"Expected a 'cpu' device type for generator but found '{NAME}'")
        return result

    return checked


def _of_storage(storage: torch.UntypedStorage) -> Tensor:
    """All bytes of a storage of the device, as a tensor there."""
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    memory.storage = storage  # keeps it alive
    flat = torch.frombuffer(memory, dtype=torch.uint8) if storage.nbytes() else torch.empty(0)
    return on_device(flat.view(torch.uint8))


def _new_storage(values: Tensor) -> torch.UntypedStorage:
    return on_device(values).untyped_storage()


MOVING: list[nn.Module] = []


def _parameters_in_place(model: nn.Module) -> Iterable[tuple[tuple[nn.Module, str], Tensor]]:
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield (module, name), parameter


def _put_back(before: dict[tuple[nn.Module, str], Tensor]) -> None:
    """Give the objects from before the move the values from after it."""
    done: dict[int, Tensor] = {}
    for (module, name), old in before.items():
        new = module._parameters[name]
        if new is not None and new is not old:
            if id(old) not in done:
                done[id(old)] = old
                try:
                    torch.utils.swap_tensors(old, new)
                except RuntimeError:  # a graph or a weak reference holds it: the new one stays
                    done[id(old)] = new
            module._parameters[name] = done[id(old)]  # type: ignore[assignment]


def _patch_python() -> None:
    move = nn.Module._apply

    def moved(self: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
        """A parameter stays the same object when its module moves, as on a GPU; tied ones too."""
        outer = not MOVING
        MOVING.append(self)
        try:
            before = dict(_parameters_in_place(self)) if outer else {}
            move(self, fn, recurse)
            if outer:
                _put_back(before)
        finally:
            MOVING.pop()
        return self

    nn.Module._apply = moved  # type: ignore[method-assign]
    torch.Generator = Generator  # type: ignore[assignment, misc]
    for name in DRAWS:
        setattr(torch, name, _checked_draw(getattr(torch, name)))
    for name in DRAWS_OF_TENSORS:
        setattr(Tensor, name, _checked_draw(getattr(Tensor, name)))
    torch.accelerator.synchronize = torch.emulated.synchronize  # type: ignore[attr-defined]

    storage_cpu, storage_clone = torch.UntypedStorage.cpu, torch.UntypedStorage.clone

    def cpu(self: torch.UntypedStorage) -> torch.UntypedStorage:
        if self.device.type != NAME:
            return storage_cpu(self)
        return on_cpu(_of_storage(self)).clone().untyped_storage()

    def clone(self: torch.UntypedStorage) -> torch.UntypedStorage:
        if self.device.type != NAME:
            return storage_clone(self)
        return _new_storage(on_cpu(_of_storage(self)).clone())

    torch.UntypedStorage.cpu, torch.UntypedStorage.clone = cpu, clone  # type: ignore[method-assign]

    def tag(storage: Any) -> str | None:
        return PLACE if storage.device.type == NAME else None

    def restore(storage: Any, location: str) -> Any:
        if not location.startswith(NAME):
            return None
        plain = torch.empty(0, dtype=torch.uint8).set_(storage)
        return _new_storage(plain.clone())

    torch.serialization.register_package(1, tag, restore)

    def pinned(self: Tensor, device: Any = None) -> Tensor:
        if _is_there(self):
            raise RuntimeError(f"cannot pin {PLACE} only dense CPU tensors can be pinned")
        return self.clone()

    empty = torch.empty

    def pinned_too(*args: Any, **kwargs: Any) -> Tensor:
        kwargs.pop("pin_memory", None)
        return empty(*args, **kwargs)

    torch.empty = pinned_too  # type: ignore[assignment]
    Tensor.record_stream = lambda self, stream: None  # type: ignore[assignment, method-assign]
    Tensor.pin_memory = pinned  # type: ignore[assignment, method-assign]
