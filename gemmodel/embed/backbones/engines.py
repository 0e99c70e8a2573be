"""What computes a network in a file: LiteRT a `.tflite`, ONNX Runtime an `.onnx`. Neither imports TensorFlow."""

import queue
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from gemmodel.core.errors import ModelError, first_line, suppress_stderr

INSTALL = "pip install -e '.[onnx]'"


class LiteRT:
    """A network for LiteRT that any number of threads may call at a time: each gets an interpreter of its own.

    Attributes:
        inputs: the shape and the type of each input, by name.
        outputs: the names of the outputs: those of the file's signature, or of its tensors where it has none.
    """

    _opening = Lock()  # standard error is hidden for all threads

    def __init__(self, content: bytes, *, threads: int = 1) -> None:
        """Opens a network; for the arguments see `open_engine`."""
        self._content, self._threads = content, threads
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()  # each serves one thread at a time
        with self._opening, suppress_stderr():  # LiteRT reports once per process that it computes on the CPU
            first = self._open()
        details = first.get_input_details()
        self.inputs = {name: (tuple(x["shape"]), np.dtype(x["dtype"]).name) for name, x in details.items()}
        self.outputs = list(first.get_output_details())
        self._idle.put(first)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns all outputs by name."""
        try:
            runner = self._idle.get_nowait()
        except queue.Empty:
            runner = self._open()
        try:
            return dict(runner(**inputs))
        finally:
            self._idle.put(runner)

    def _open(self) -> Any:
        interpreter = Interpreter(model_content=self._content, num_threads=self._threads)
        interpreter.allocate_tensors()
        return interpreter.get_signature_runner() if interpreter.get_signature_list() else _Unsigned(interpreter)


class _Unsigned:
    """A LiteRT network without signature, with the interface of one that has it."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter

    def get_input_details(self) -> dict[str, Any]:
        return {x["name"]: x for x in self._interpreter.get_input_details()}

    def get_output_details(self) -> dict[str, Any]:
        return {x["name"]: x for x in self._interpreter.get_output_details()}

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        for name, values in inputs.items():
            self._interpreter.set_tensor(self.get_input_details()[name]["index"], values)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(x["index"]) for name, x in self.get_output_details().items()}


class OnnxRuntime:
    """A network for ONNX Runtime, with the interface of `LiteRT`."""

    def __init__(self, content: bytes, *, threads: int = 1) -> None:
        """Opens a network; for the arguments see `open_engine`."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        kinds = {"tensor(float)": "float32"}
        self.inputs = {x.name: (tuple(x.shape), kinds.get(x.type, x.type)) for x in self._session.get_inputs()}
        self.outputs = [x.name for x in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns all outputs by name."""
        return dict(zip(self.outputs, self._session.run(None, dict(inputs)), strict=True))


Engine = LiteRT | OnnxRuntime
ENGINES: dict[str, Callable[..., Engine]] = {".tflite": LiteRT, ".onnx": OnnxRuntime}


def open_engine(content: bytes, suffix: str, *, name: str, threads: int = 1, remedy: str = "") -> Engine:
    """Returns a network of a file, which any number of threads may call at a time.

    Args:
        content: of the file.
        suffix: `.tflite` or `.onnx`.
        name: of the file, for messages.
        threads: of one computation. With one, equal photos give equal bits in any number of calls at a time.
        remedy: of a damaged file, the end of the message.

    Raises:
        ModelError: the file is damaged or of another version, or ONNX Runtime is not installed.
    """
    try:
        return ENGINES[suffix](content, threads=threads)
    except ModuleNotFoundError:
        raise ModelError(f"{name}: ONNX Runtime, which computes it, is not installed; {INSTALL}") from None
    except Exception as error:  # ONNX Runtime's errors have no common class
        raise ModelError(f"{name}: damaged or of another version: {first_line(error)}{remedy}") from None


def compute(engine: Engine, photo: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
    """Returns some outputs of a network with one input, for one photo (1, ...)."""
    values = engine({next(iter(engine.inputs)): photo})
    return [np.asarray(values[name], np.float32) for name in outputs]
