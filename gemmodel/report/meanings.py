"""What pictures, files and scores show, in the words of the index page."""

PICTURES = {  # by file name without its ending: a title, which is the alternative text, and a caption
    "abstention": (
        "Accuracy if unsure answers are left out",
        "From left to right more photos get an answer, the most confident first. The blue line is how often the "
        "answers are right; the dashed one is the least confidence of an answer.",
    ),
    "confusion_worst": (
        "Confusion matrix of the gems with the most errors",
        "A row is the gem that a photo shows, a column the gem that the model names. The numbers count photos, the "
        "colour is the fraction of the row. Look-alikes are neighbours.",
    ),
    "reliability": (
        "Whether a confidence can be believed",
        "Each dot has the same number of photos. On the dotted line, answers with 80 % confidence are right in 80 % of "
        "the cases; above it the model is too modest, below it too bold.",
    ),
    "ablation": (
        "Accuracy without colour, shape or texture",
        "The same photos, each time without one of the cues. The cue whose loss costs most is the one that the model "
        "uses most.",
    ),
    "tsne": (
        "Map of the photos by t-SNE",
        "A dot is a photo in the mean colour of its gem. Photos with similar features are near each other.",
    ),
    "umap": (
        "Map of the photos by UMAP",
        "As above, by another method. Distances between far groups mean little in both.",
    ),
    "curves": (
        "How the training went",
        "By epoch, with a dotted line at the one that was kept. Of a model that is fitted in closed form there are no "
        "epochs: its loss by penalty and degree, each photo left out in turn, with a star for the head that was kept.",
    ),
}
GALLERIES = {  # by name
    "mistakes": "Mistakes, the most confident first, each before an example of the gem that was named",
    "confused_pairs": "Pairs that are taken for each other most often",
    "random": "A random sample of test photos",
    "samples": "One training photo of each gem",
}
FILES = {  # by name: what a link says
    "evaluation/confusion.html": "Confusion matrix of all gems, with the photos of each cell",
    "evaluation/label_issues.html": "Label issues: photos whose label may be wrong, to review",
    "explanation/index.html": "Explanations: which parts of a photo support a prediction",
    "exploration/index.html": "Exploration: maps and clusters, with the photo under the pointer",
    "data.html": "The data: photos of each gem, augmentation, rejected files and why",
    "model_card.md": "The model card: uses, limits, training data, scores",
    "crawl.md": "The last crawl: pictures, requests and failures",
}
SCORES = {  # by name
    "photos": "number of photos",
    "accuracy": "fraction of photos whose most probable gem is the right one",
    "log_loss": "mean negative logarithm of the right gem's probability; 0 is best",
    "brier_score": "mean squared error of all probabilities; 0 is best, 2 worst",
    "mineral_class_accuracy": "fraction whose mineral class is right, such as Corundum for Ruby and Sapphire",
    "label_score": "mean number of right labels of a photo, gem and mineral class: at most 2",
    "set_coverage": "fraction of prediction sets that hold the right gem; the target is the parameter train.coverage",
    "set_size": "mean number of gems in a prediction set",
    "singleton_rate": "fraction of photos whose prediction set holds one gem only",
    "macro_precision": "how often a named gem is right; every gem counts the same",
    "macro_recall": "how often a gem is recognised; every gem counts the same",
    "macro_f1": "harmonic mean of a gem's precision and recall; every gem counts the same",
    "micro_precision": "as accuracy: every photo counts the same",
    "micro_recall": "as accuracy: every photo counts the same",
    "micro_f1": "as accuracy: every photo counts the same",
    "calibration_error": "mean distance of confidence from accuracy; 0 is best",
    "best_epoch": "the epoch, or the penalty, whose weights were kept, from 0",
    "epochs": "number of epochs, or of penalties of a closed-form fit",
    "best_loss": "log loss on the training photos; of a closed-form fit, with each photo left out",
    "best_accuracy": "accuracy on the training photos; of a closed-form fit, with each photo left out",
    "best_val_loss": "log loss on the validation photos",
    "best_val_accuracy": "accuracy on the validation photos",
    "components": "principal components that explain the fraction explore.variance of the variance",
    "clusters": "number of clusters that are compared with the labels",
    "gem_silhouette": "how well the features separate the gems: 1 well, 0 not",
    "mineral_class_silhouette": "the same for mineral classes",
    "silhouette": "how well the clusters are separated: 1 well, 0 not",
    "gem_adjusted_rand_index": "agreement of clusters and gems: 1 full, 0 as by chance",
    "gem_mutual_information": "agreement of clusters and gems, normalised: at most 1",
    "mineral_class_adjusted_rand_index": "agreement of clusters and mineral classes: 1 full, 0 as by chance",
    "mineral_class_mutual_information": "agreement of clusters and mineral classes, normalised: at most 1",
    "elbow": "number of clusters after which more of them gain little",
    "rule": "how a new model is compared with the champion",
    "champion": "whether this model is the one in use",
    "test_photos": "number of test photos of the comparison",
}


def score(name: str) -> str:
    """Returns the meaning of a score, or an empty text; of `pca.elbow` that of `elbow`."""
    if name.startswith("top_"):
        return f"fraction of photos whose right gem is among the {name.split('_')[1]} most probable ones"
    return SCORES.get(name.rpartition(".")[2], "")
