"""How alike the nodes' features are: two numbers, and a picture that proves nothing without them (methods.md 4.20).

    node classifier    balanced accuracy of logistic regression that guesses an image's node from its features, five
                       folds; 1/K is chance, so the nearer to it the more alike
    MMD                maximum mean discrepancy of a Gaussian kernel (median distance), mean over pairs of nodes; 0 is
                       alike

Both also see that nodes differ in their share of positive images, before and after training alike. One thread: these
matrices gain nothing from more, and on a busy machine threads that wait for each other take minutes for seconds.
"""

from itertools import combinations

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

Features = npt.NDArray[np.float64]  # (M, D)
Nodes = npt.NDArray[np.int64]  # (M,)

NUM_COMPONENTS = 50
NUM_FOLDS = 5
PERPLEXITY = 30.0


def reduced(features: npt.NDArray[np.float32]) -> Features:
    """The first 50 principal components, the whole scaled to unit variance."""
    centred = np.asarray(features, dtype=np.float64) - features.mean(axis=0)
    spread = float(np.sqrt((centred**2).sum(axis=1).mean()))
    num_components = min(NUM_COMPONENTS, *centred.shape)
    with threadpool_limits(limits=1):
        found: Features = PCA(num_components, svd_solver="full").fit_transform(centred / max(spread, 1e-12))
    return found


def node_accuracy(features: Features, nodes: Nodes) -> float | None:
    """None where a node has fewer images than folds, or there is one node."""
    counts = np.bincount(nodes)
    if len(counts) < 2 or counts.min() < NUM_FOLDS:
        return None
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=0)
    scaled = StandardScaler().fit_transform(features)
    classifier = LogisticRegression(class_weight="balanced", max_iter=2000)
    with threadpool_limits(limits=1):
        guessed = cross_val_predict(classifier, scaled, nodes, cv=folds)
    return float(np.mean([(guessed[nodes == node] == node).mean() for node in range(len(counts))]))


def mmd(features: Features, nodes: Nodes) -> float | None:
    """Biased estimate, so never negative. None for fewer than two nodes, or features that are all one."""
    squares = (features**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * features @ features.T, 0.0)
    width = float(np.median(distances[np.triu_indices(len(features), 1)])) if len(features) > 1 else 0.0
    present = np.unique(nodes)
    if len(present) < 2 or width <= 0:
        return None
    kernel = np.exp(-distances / width)
    means = np.array([[kernel[np.ix_(nodes == one, nodes == two)].mean() for two in present] for one in present])
    own = np.diag(means)
    pairs = combinations(range(len(present)), 2)
    squared = [own[one] + own[two] - 2 * means[one, two] for one, two in pairs]
    return float(np.mean(np.sqrt(np.maximum(squared, 0.0))))


def tsne(features: Features) -> Features | None:
    """(M, 2), the same each time on one machine. None for fewer than eight images."""
    if len(features) < 8:
        return None
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    with threadpool_limits(limits=1):
        found: Features = TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=500).fit_transform(features)
    return found
