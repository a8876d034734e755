"""One run as one record, read from a CORDS configuration file (.py or .yaml) or a short one.

Files of CORDS load as they are. Overrides such as ``optimizer.lr=0.1`` are applied before the
checks, so that a wrong one is named like a wrong line of the file.
"""

from __future__ import annotations

import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lipt_cords.base.errors import unknown_name
from lipt_cords.base.listing import listed
from lipt_cords.base.options import ConfigSection
from lipt_cords.base.registry import import_modules
from lipt_cords.cords.schema import (
    CheckpointConfig,
    DataloaderConfig,
    DatasetConfig,
    DssConfig,
    LossConfig,
    ModelConfig,
    TrainConfig,
)
from lipt_cords.cords.yaml_text import MOST_CHARACTERS, read_yaml
from lipt_cords.data.tables.parts import is_table
from lipt_cords.models.build import MODELS, reads_images
from lipt_cords.models.outside import TIMM, module_of
from lipt_cords.training.optimizers import OptimizerConfig
from lipt_cords.training.scheduler import SchedulerConfig
from lipt_cords.warmstart.config import WarmStartConfig

SETTINGS = ("SL", "supervisedlearning")
ALIASES = {"dss_strategy": "dss_args"}
KEY_ALIASES = {"loss": {"name": "type"}}
NETS = ("architecture", "timm", "import")
"""Keys of ``model`` that name a net, one of which is given."""


class RunConfig(BaseModel):
    """Everything that one run needs, in CORDS's sections.

    >>> config = RunConfig.parse({"dataset": {"name": "digits"}, "dss_args": {"type": "CRAIG"}})
    >>> config.dss_args.selection_type
    'PerClass'
    >>> RunConfig.parse({"optimizer": {"momentm": 0.9}})
    Traceback (most recent call last):
    ...
    ValueError: unknown configuration key 'optimizer.momentm': ... 'optimizer.momentum'?
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    imports: tuple[str, ...] = ()
    """Modules of your own that register names, imported before the rest is checked (not a key of
    CORDS)."""
    setting: str = "SL"
    """CORDS's setting: only supervised learning is supported."""
    is_reg: bool = False
    """CORDS's switch for regression; only False is supported."""
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)
    dataloader: DataloaderConfig = Field(default_factory=DataloaderConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    ckpt: CheckpointConfig = Field(default_factory=CheckpointConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    scheduler: SchedulerConfig = Field(default_factory=SchedulerConfig)
    dss_args: DssConfig = Field(default_factory=DssConfig)
    train_args: TrainConfig = Field(default_factory=TrainConfig)

    @classmethod
    def parse(
        cls,
        mapping: Mapping[str, Any],
        overrides: Iterable[str] = (),
        *,
        imports: Iterable[str] = (),
        code: bool = True,
    ) -> RunConfig:
        """Check a configuration, section by section.

        Args:
            mapping: sections as CORDS writes them; missing ones take their defaults.
            overrides: ``section.key=value`` each; the value is read as YAML.
            imports: modules to import besides those of the mapping; they join its ``imports``.
            code: whether modules may be imported; False refuses them.

        Raises:
            ValueError: an unknown key (named with its path and the nearest valid one), a wrong
                value, a module that cannot be imported, a net for images where the data are a
                table, or something that CORDS can do and this package cannot.
        """
        raw = canonical(mapping)
        for override in overrides:
            apply_override(raw, override)
        _default_net(raw)
        modules = tuple(
            dict.fromkeys([*_module_names(raw.pop("imports", None)), *imports, *_name_net(raw)])
        )
        if modules and not code:
            raise ValueError(
                f"imports (or --import, --set imports=) names {', '.join(map(repr, modules))}, "
                "whose code would be executed: leave it out, or leave out --no-code (code=False)"
            )
        import_modules(modules)  # before the checks: they know what these modules register
        for name in raw:
            if name not in cls.model_fields:
                raise _unknown_section(name)
        if raw.get("setting", "SL") not in SETTINGS:
            raise unknown_name("setting", raw["setting"], SETTINGS)
        if raw.get("is_reg", False):
            raise ValueError("is_reg=True: regression is not supported, only classification")
        sections: dict[str, Any] = {"imports": modules, "setting": "SL", "is_reg": False}
        for name, section in section_types().items():
            values = raw.get(name) or {}
            if not isinstance(values, Mapping):
                raise ValueError(f"expected a mapping at {name}, received {values!r}")
            sections[name] = section(**{str(key): values[key] for key in values})
        made = cls(**sections)
        _refuse_image_net(made)
        return made

    def updated(self, **changes: Mapping[str, Any]) -> RunConfig:
        """A copy with some keys of some sections replaced and checked again.

        >>> RunConfig().updated(train_args={"seed": 3}).train_args.seed
        3
        """
        raw = self.given()
        for section, values in changes.items():
            raw[section] = {**raw.get(section, {}), **values}
        return type(self).parse(raw)

    def given(self) -> dict[str, Any]:
        """The keys that were set, as a mapping that :meth:`parse` reads again."""
        sections: dict[str, Any] = {
            name: {key: getattr(section, key) for key in section.model_fields_set}
            for name in section_types()
            if (section := getattr(self, name)).model_fields_set
        }
        return {**({"imports": self.imports} if self.imports else {}), **sections}

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value, ready for JSON; those of later versions where they are set."""
        # Left out when empty, so that runs of earlier versions can be resumed.
        keys = self.model_dump(mode="json", exclude=None if self.imports else {"imports"})
        for name in ("skip_unreadable", "without", "label", "columns"):
            if not keys["dataset"][name]:
                del keys["dataset"][name]
        keys["scheduler"]["type"] = self.scheduler.chosen(self.optimizer.type)
        return keys

    @field_validator("*", mode="before")
    @classmethod
    def _sections_only(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            raise ValueError("build sections from mappings with RunConfig.parse")
        return value


def _unknown_section(name: str) -> ValueError:
    """The error for an unknown section, which may be a key of one."""
    homes = [
        f"{section}.{name}"
        for section, kind in section_types().items()
        if name in kind.model_fields
    ]
    if name in WarmStartConfig.model_fields:
        homes.append(f"dss_args.warm_start.{name}")
    if homes:
        return ValueError(f"{name!r} is not a section but a key: write {' or '.join(homes)}")
    return unknown_name("configuration section", name, RunConfig.model_fields)


def _default_net(raw: dict[str, Any]) -> None:
    """Give a table the net that reads rows, where none is named."""
    data, model = raw.get("dataset"), raw.get("model") or {}
    if not isinstance(data, Mapping) or not isinstance(model, Mapping):
        return
    if is_table(data.get("name")) and all(model.get(key) is None for key in NETS):
        raw["model"] = {**model, "architecture": "mlp"}


def _refuse_image_net(config: RunConfig) -> None:
    """Refuse a net that reads images where the data are a table."""
    name = config.model.architecture
    if config.dataset.is_table and reads_images(name):
        fit = [one for one in MODELS.names() if not reads_images(one)]
        raise ValueError(
            f"model.architecture {name!r} reads images, and {config.dataset.name} has rows of a "
            f"table: leave it out, which takes mlp, or name one that reads rows ({listed(fit)}, or "
            "one of your own by model.import)"
        )


def _name_net(raw: dict[str, Any]) -> list[str]:
    """Write the net of a configuration as its ``architecture``; the module that it is in, if any.

    Raises:
        ValueError: several nets, or a name of another form.
    """
    model = raw.get("model")
    given = [key for key in NETS if isinstance(model, Mapping) and model.get(key) is not None]
    if not isinstance(model, Mapping) or not given:
        return []
    if len(given) > 1:
        raise ValueError(
            f"model names {len(given)} nets, by {' and by '.join(given)}: keep one of them"
        )
    key, name = given[0], model[given[0]]
    if key != "architecture":
        forms = {"timm": "a name such as resnet18", "import": "my_module:make_net"}
        if not isinstance(name, str) or (":" in name) != (key == "import") or not name.strip(":"):
            raise ValueError(f"expected {forms[key]} at model.{key}, received {name!r}")
        others = {one: value for one, value in model.items() if one not in NETS}
        name = f"{TIMM}:{name}" if key == "timm" else name
        raw["model"] = {**others, "architecture": name}
    module = module_of(name) if isinstance(name, str) else None
    return [] if module is None else [module]


def _module_names(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError(
            f"expected a list of modules at imports, such as imports: [my_module], received "
            f"{value!r}"
        )
    return tuple(value)


def section_types() -> dict[str, type[ConfigSection]]:
    """The sections of a configuration by name."""
    return {
        name: field.annotation
        for name, field in RunConfig.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, ConfigSection)
    }


def load_config(
    path: str | Path,
    overrides: Iterable[str] = (),
    *,
    imports: Iterable[str] = (),
    code: bool = True,
) -> RunConfig:
    """Read a configuration file.

    Args:
        path: ``.yaml``/``.yml``, or ``.py`` that defines ``config = dict(...)`` as CORDS's
            examples do. A ``.py`` file is executed: load only files that you trust.
        overrides: ``section.key=value`` each, applied before the checks.
        imports: modules of your own to import besides those that the file names under
            ``imports``; they become part of the configuration.
        code: whether code may be executed. False refuses ``.py`` files, and ``imports`` wherever
            they are given.

    Raises:
        ValueError: the file cannot be read, or its content is wrong; the file is named.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"no configuration file at {path}: give a .yaml or a CORDS .py file")
    readers = {".yaml": _read_yaml, ".yml": _read_yaml, ".py": _read_python}
    reader = readers.get(path.suffix.lower())
    if not code and reader is _read_python:
        raise ValueError(
            f"{path} is Python, which would be executed: --no-code (code=False) reads .yaml alone"
        )
    if reader is None:
        raise ValueError(f"expected a .yaml, .yml or .py configuration, received {path}")
    raw = reader(path)
    if not isinstance(raw, Mapping):
        found = "nothing" if raw is None else type(raw).__name__
        raise ValueError(
            f"expected sections such as dataset, model and dss_args in {path}, found {found}"
        )
    try:
        return RunConfig.parse(raw, overrides, imports=imports, code=code)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def canonical(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """A mutable copy in which CORDS's two spellings of some keys are one.

    >>> canonical({"dss_strategy": {"type": "CRAIG"}, "loss": {"name": "CrossEntropyLoss"}})
    {'dss_args': {'type': 'CRAIG'}, 'loss': {'type': 'CrossEntropyLoss'}}
    """
    raw: dict[str, Any] = {}
    for name, values in mapping.items():
        section = ALIASES.get(str(name), str(name))
        if section in raw:
            raise ValueError(f"both {name!r} and another spelling of {section!r}: keep one")
        if isinstance(values, Mapping):
            aliases = KEY_ALIASES.get(section, {})
            values = {aliases.get(str(key), str(key)): value for key, value in values.items()}
        raw[section] = values
    return raw


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one ``section.key=value`` in place; the value is read as YAML.

    >>> raw = {"dss_args": {"warm_start": "lipt"}}
    >>> apply_override(raw, "dss_args.warm_start.num_workers=4")
    >>> raw
    {'dss_args': {'warm_start': {'type': 'lipt', 'num_workers': 4}}}

    Raises:
        ValueError: not of the form ``a.b=c``, or the value is not YAML.
    """
    where, separator, text = override.partition("=")
    keys = [part.strip() for part in where.split(".")]
    if not separator or not all(keys):
        raise ValueError(f"expected section.key=value, received {override!r}")
    try:
        value = read_yaml(text)
    except ValueError as error:
        raise ValueError(f"the value of {where} is not YAML: {text[:80]!r} ({error})") from error
    keys[0] = ALIASES.get(keys[0], keys[0])
    if len(keys) > 1:
        keys[1] = KEY_ALIASES.get(keys[0], {}).get(keys[1], keys[1])
    node = raw
    for depth, key in enumerate(keys[:-1]):
        inner = node.get(key)
        if inner is None:
            inner = {}
        elif isinstance(inner, str) and key == "warm_start":
            inner = {"type": inner}
        elif hasattr(inner, "model_fields_set"):
            inner = {name: getattr(inner, name) for name in inner.model_fields_set}
        elif not isinstance(inner, Mapping):
            raise ValueError(
                f"{'.'.join(keys[: depth + 1])} is the value {inner!r}, not a mapping: "
                f"{override!r} cannot be set"
            )
        node[key] = inner = dict(inner)
        node = inner
    if keys[0] == "model" and keys[-1] in NETS:  # the last one named is meant
        for key in NETS:
            node.pop(key, None)
    node[keys[-1]] = value


def _read_yaml(path: Path) -> Any:
    try:
        if path.stat().st_size > 4 * MOST_CHARACTERS:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        return read_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        remedy = ". Save it as UTF-8" if isinstance(error, UnicodeError) else ""
        raise ValueError(f"{path} is not a readable YAML configuration: {error}{remedy}") from error


def _read_python(path: Path) -> Any:
    try:
        namespace = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} stops with {type(error).__name__}: {error}") from error
    if "config" not in namespace:
        raise ValueError(f"{path} defines no `config`: expected config = dict(...), as in CORDS")
    return namespace["config"]
