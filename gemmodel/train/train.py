"""The architectures by name: what the train stage and each trial of a search train in the same way."""

from threadpoolctl import threadpool_limits

from gemmodel.train.context import TrainingContext
from gemmodel.train.fine_tuning import fine_tune
from gemmodel.train.fit import TrainingResult
from gemmodel.train.fusion_head import train_fusion
from gemmodel.train.network import train_network


def train_model(context: TrainingContext) -> TrainingResult:
    """Trains the classifier that `model.name` names.

    Args:
        context: parameters, data and folders.

    Returns:
        The model, its metrics by epoch, and its predictions for held-out photos.
    """
    model = context.params.model
    if model.name != "fusion":
        return train_network(context)
    with threadpool_limits(context.params.base.threads or None):  # of NumPy's libraries; their number changes the bits
        return fine_tune(context) if model.fusion.fine_tune_epochs else train_fusion(context)
