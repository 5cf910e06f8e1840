"""Every number of a recipe has its one home here: name, unit, default and source.

All sections are frozen pydantic models that refuse unknown keys. The line under a field says what it means, its
unit and where its default comes from; docs/recipes.md is generated from these lines. Fields marked `how` say how a
stage runs (device, workers, rows per device) and never enter an address; everything else is identity.

Source keys: L3 = The Llama 3 Herd of Models (2407.21783), L2 = Llama 2 (2307.09288), T3 = Tülu 3 (2411.15124),
RF = RLHF Workflow (2405.07863), SI = Self-Instruct (2212.10560), MP = Magpie (2406.08464).
"""

from posttrain.config.annotate import (
    AnnotateConfig,
    Annotator,
    FileAnnotator,
    JudgeAnnotator,
    RewardModelAnnotator,
    VerifierAnnotator,
)
from posttrain.config.base import (
    Dtype,
    Guard,
    NaturalInt,
    Nucleus,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
    Tracker,
    how,
    plain,
)
from posttrain.config.evaluation import (
    DriftConfig,
    EvaluateConfig,
    FurtherJudge,
    GateConfig,
    Judge,
    LabelsJudge,
    LLMJudge,
    RewardModelJudge,
    RubricJudge,
    VerifierJudge,
)
from posttrain.config.models import (
    EndpointModel,
    FolderModel,
    HubModel,
    PolicyModel,
    PracticeModel,
    TeacherModel,
    WeightsModel,
)
from posttrain.config.prompts import (
    Cleaning,
    Generator,
    Magpie,
    PracticePrompts,
    PromptFile,
    PromptsConfig,
    PromptSource,
    SelfInstruct,
)
from posttrain.config.sampling import GivenRewardModel, SamplingConfig, SelectConfig
from posttrain.config.students import Execution, StudentConfig
from posttrain.config.training import (
    AverageConfig,
    DistillConfig,
    DPOConfig,
    LoraConfig,
    RewardModelConfig,
    SFTConfig,
    TrainConfig,
    TrainSection,
)

__all__ = [
    "AnnotateConfig",
    "Annotator",
    "AverageConfig",
    "Cleaning",
    "DPOConfig",
    "DistillConfig",
    "DriftConfig",
    "Dtype",
    "EndpointModel",
    "EvaluateConfig",
    "Execution",
    "FileAnnotator",
    "FolderModel",
    "FurtherJudge",
    "GateConfig",
    "Generator",
    "GivenRewardModel",
    "Guard",
    "HubModel",
    "Judge",
    "JudgeAnnotator",
    "LabelsJudge",
    "LLMJudge",
    "LoraConfig",
    "Magpie",
    "NaturalInt",
    "Nucleus",
    "PolicyModel",
    "PositiveFloat",
    "PositiveInt",
    "PracticeModel",
    "PracticePrompts",
    "Probability",
    "PromptFile",
    "PromptSource",
    "PromptsConfig",
    "RewardModelAnnotator",
    "RewardModelConfig",
    "RewardModelJudge",
    "RubricJudge",
    "SFTConfig",
    "SamplingConfig",
    "Section",
    "SelectConfig",
    "SelfInstruct",
    "StudentConfig",
    "TeacherModel",
    "Tracker",
    "TrainConfig",
    "TrainSection",
    "VerifierAnnotator",
    "VerifierJudge",
    "WeightsModel",
    "how",
    "plain",
]
