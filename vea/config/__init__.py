"""Strict typed configs, one schema per recipe: YAML files (with ``base:``) and ``a.b=c`` overrides."""

from vea.config.base import Section, to_yaml
from vea.config.explain import (
    EmotionSource,
    ExplainConfig,
    ExplainModelConfig,
    ExplainObjective,
    GenerateConfig,
    HfModelConfig,
    TextDecoderConfig,
)
from vea.config.files import apply_override, read_yaml
from vea.config.load import RECIPES, ConfigT, config_from_command_line, load_config
from vea.config.pretrain import DecoderConfig, ObjectiveConfig, PretrainConfig, PretrainModelConfig
from vea.config.recognise import (
    AttributesConfig,
    ClassifierConfig,
    DistillConfig,
    EmotionConfig,
    ImbalanceConfig,
    MixConfig,
    RecogniseConfig,
)
from vea.config.sections import (
    AugmentConfig,
    DataConfig,
    DatasetRef,
    EncoderConfig,
    FinetuneConfig,
    PromptConfig,
    RunConfig,
    RuntimeConfig,
    TeacherConfig,
    TrackingConfig,
    TrainConfig,
)
from vea.config.temporal import ClipConfig, TemporalConfig, TemporalHeadConfig

__all__ = [
    "RECIPES",
    "AttributesConfig",
    "AugmentConfig",
    "ClassifierConfig",
    "ClipConfig",
    "ConfigT",
    "DataConfig",
    "DatasetRef",
    "DecoderConfig",
    "DistillConfig",
    "EmotionConfig",
    "EmotionSource",
    "EncoderConfig",
    "ExplainConfig",
    "ExplainModelConfig",
    "ExplainObjective",
    "FinetuneConfig",
    "GenerateConfig",
    "HfModelConfig",
    "ImbalanceConfig",
    "MixConfig",
    "ObjectiveConfig",
    "PretrainConfig",
    "PretrainModelConfig",
    "PromptConfig",
    "RecogniseConfig",
    "RunConfig",
    "RuntimeConfig",
    "Section",
    "TeacherConfig",
    "TemporalConfig",
    "TemporalHeadConfig",
    "TextDecoderConfig",
    "TrackingConfig",
    "TrainConfig",
    "apply_override",
    "config_from_command_line",
    "load_config",
    "read_yaml",
    "to_yaml",
]
