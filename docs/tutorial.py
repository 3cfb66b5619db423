# %% [markdown]
# # Learned exemplars of your own model
#
# Train a small network on handwritten digits, keep two images of each digit,
# and learn their pixels, so that whoever has only these twenty images loses as
# little as possible. It runs in less than a minute on two cores.
#
# This notebook is made from `docs/tutorial.py`, which also runs as a program:
#
# ```sh
# python docs/tutorial.py
# ```

# %%
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

from mnemonics_jax import (
    class_means,
    herding,
    make_exemplar_learner,
    nme_scores,
)

# With TUTORIAL_SHORT=1 it runs in seconds, and learns little.
SHORT = 'TUTORIAL_SHORT' in os.environ
PER_CLASS, NUM_CLASSES = 2, 10
EPOCHS, OUTER_STEPS, INNER_STEPS = (3, 20, 20) if SHORT else (30, 400, 20)
DIGITS = np.arange(NUM_CLASSES)


def show(name):
    """Shows the current figure, or saves it to the folder TUTORIAL_FIGURES."""
    if folder := os.environ.get('TUTORIAL_FIGURES'):
        plt.savefig(os.path.join(folder, f'{name}.png'), dpi=120)
        plt.close()
    else:
        plt.show()


# %% [markdown]
# ## Data
#
# The 1,797 digits of scikit-learn, 8 x 8 pixels. Pixels of images are in
# [0, 1] everywhere in the library. The first 1,300 are for training.

# %%
values, targets = load_digits(return_X_y=True)
images = (values / 16).astype(np.float32).reshape(-1, 8, 8)
train_x, train_y = images[:1300], targets[:1300]
test_x, test_y = images[1300:], targets[1300:]

# %% [markdown]
# ## A model
#
# Any function `(params, images) -> logits` will do. This one is a linen module
# that can also return its features, which herding and class means work on.


# %%
class Network(nn.Module):
    def setup(self):
        self.layers = [nn.Dense(64), nn.Dense(32)]
        self.head = nn.Dense(NUM_CLASSES)

    def features(self, x):
        x = x.reshape(len(x), -1) - 0.3
        for layer in self.layers:
            x = nn.relu(layer(x))
        return x

    def __call__(self, x):
        return self.head(self.features(x))


network = Network()
features = jax.jit(
    lambda params, x: network.apply(params, x, method='features')
)


@jax.jit
def accuracy(params):
    predicted = network.apply(params, test_x).argmax(axis=1)
    return 100 * jnp.mean(predicted == test_y)


# %% [markdown]
# Ordinary training, on all training images:

# %%
optimizer = optax.adam(3e-3)


@jax.jit
def train_step(params, state, x, y):
    def loss(params):
        logits = network.apply(params, x)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean()

    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state


random = np.random.default_rng(0)
trained = network.init(jax.random.key(0), train_x[:1])
state = optimizer.init(trained)
for _ in range(EPOCHS):
    for rows in random.permutation(1300).reshape(-1, 100):
        trained, state = train_step(
            trained, state, train_x[rows], train_y[rows]
        )
print(f'trained on all 1300 images: {accuracy(trained):.1f} % of test images')

# %% [markdown]
# ## Choose exemplars
#
# Herding ranks the images of a class so that the mean of the first few is near
# the mean of all, in feature space. As a control, the first images of each
# class, which are in no order.

# %%
first, herded = [], []
for digit in DIGITS:
    rows = np.flatnonzero(train_y == digit)
    everything = np.ones(len(rows), bool)
    order = herding(features(trained, train_x[rows]), everything, PER_CLASS)
    first.append(train_x[rows[:PER_CLASS]])
    herded.append(train_x[rows[np.asarray(order)]])
first, herded = np.concatenate(first), np.concatenate(herded)
labels = DIGITS.repeat(PER_CLASS)

# %% [markdown]
# ## Learn their pixels
#
# What are exemplars for? Here: to teach the model its digits again after it has
# lost its head, the last layer. So this is what is learned: draw a new head,
# take `INNER_STEPS` gradient steps on the exemplars, measure the loss on real
# training images, and differentiate it through all those steps down to the
# pixels. Then one step of Adam on the pixels, and all over with another head.


# %%
def with_new_head(params, key):
    """The trained layers below a head of random weights."""
    fresh = network.init(jax.random.key(key), train_x[:1])
    head = fresh['params']['head']
    return {'params': {**params['params'], 'head': head}}


learner = make_exemplar_learner(
    network.apply,
    inner_tx=optax.sgd(0.1),
    inner_steps=INNER_STEPS,
    outer_tx=optax.adam(0.01),
)
learned = learner.init(jnp.asarray(herded))
losses = []
for step in range(OUTER_STEPS):
    rows = random.choice(1300, 256, replace=False)
    learned, metrics = learner.step(
        learned,
        with_new_head(trained, 1 + step),  # 0 was the head of training.
        labels,
        train_x[rows],
        train_y[rows],
    )
    losses.append(float(metrics['outer_loss']))
plt.figure(figsize=(5, 2.5), layout='constrained')
plt.plot(losses)
plt.xlabel('outer step')
plt.ylabel('loss on real images')
show('loss')
early, late = np.mean(losses[:10]), np.mean(losses[-10:])
print(f'loss on real images, mean of 10 steps: {early:.3f} -> {late:.3f}')

# %% [markdown]
# ## Pixels before and after

# %%
after = np.asarray(learned.pixels)
_, axes = plt.subplots(3, NUM_CLASSES, figsize=(8, 2.7), layout='constrained')
shown = slice(0, None, PER_CLASS)  # The first of each digit.
rows = {
    'herded': (herded[shown], 'gray', 0, 1),
    'learned': (after[shown], 'gray', 0, 1),
    'change': ((after - herded)[shown], 'coolwarm', -0.5, 0.5),
}
for line, (name, (pictures, colors, low, high)) in zip(
    axes, rows.items(), strict=True
):
    line[0].set_ylabel(name)
    for ax, picture in zip(line, pictures, strict=True):
        ax.imshow(picture, cmap=colors, vmin=low, vmax=high)
        ax.set_xticks([])
        ax.set_yticks([])
show('pixels')
change = 255 * np.abs(after - herded).mean()
print(f'mean change of a pixel: {change:.0f} of 255 grey levels')

# %% [markdown]
# ## Class means and borders
#
# The exemplars of a class also have a mean in feature space, and an image can
# be classified by the nearest one (NME). The figure has three digits, in the
# plane through their three means. The borders between these are exact there: a
# border's normal is the difference of two means and lies in the plane, so no
# image changes sides when it is projected.

# %%
CONFUSED = [1, 8, 9]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def means_of(pixels):
    """Means of the exemplars' features, f32[K, D]."""
    found = features(trained, pixels).reshape(NUM_CLASSES, PER_CLASS, -1)
    return class_means(found, np.ones(found.shape[:2], bool))


def draw_borders(ax, pixels):
    means = unit(np.asarray(means_of(pixels)))[CONFUSED]
    origin = means.mean(axis=0)
    # An orthonormal basis of the plane.
    plane = np.linalg.qr((means[:2] - origin).T)[0]
    centres = (means - origin) @ plane
    mine = np.isin(test_y, CONFUSED)
    points = unit(np.asarray(features(trained, test_x[mine])))
    points = (points - origin) @ plane
    both = np.concatenate([points, centres])
    low, high = both.min(axis=0) - 0.05, both.max(axis=0) + 0.05
    sides = np.linspace(low, high, 200).T
    grid = np.stack(np.meshgrid(*sides), axis=-1)
    distances = np.linalg.norm(grid[..., None, :] - centres, axis=-1)
    extent = (low[0], high[0], low[1], high[1])
    style = {'cmap': 'brg', 'vmin': 0, 'vmax': 2}
    ax.imshow(
        distances.argmin(axis=-1),
        origin='lower',
        extent=extent,
        aspect='auto',
        alpha=0.15,
        **style,
    )
    classes = np.searchsorted(CONFUSED, test_y[mine])
    ax.scatter(*points.T, c=classes, s=6, **style)
    ax.scatter(
        *centres.T, c=range(3), s=160, marker='*', edgecolors='black', **style
    )
    for digit, centre in zip(CONFUSED, centres, strict=True):
        ax.annotate(str(digit), centre, (6, 6), textcoords='offset points')


_, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout='constrained')
for ax, (name, pixels) in zip(
    axes, {'herded': herded, 'learned': after}.items(), strict=True
):
    draw_borders(ax, pixels)
    ax.set_title(f'means of {name} exemplars (stars), test images (dots)')
    ax.title.set_size(9)
show('borders')

# %% [markdown]
# ## What it is worth
#
# Nearest means, and the model with a new head after fine-tuning on the twenty
# exemplars alone, for five heads that learning has not seen. Fine-tuning takes
# `INNER_STEPS` steps as in learning, and ten times as many. The ± is over heads
# alone: it is one model and one split of the data.

# %%
table = {}
for name, pixels in {
    'first images': first,
    'herded': herded,
    'learned': after,
}.items():
    scores = nme_scores(features(trained, test_x), means_of(pixels))
    nme = 100 * np.mean(np.asarray(scores).argmax(axis=1) == test_y)
    row = [f'{nme:.1f}']
    for num_steps in (INNER_STEPS, 10 * INNER_STEPS):
        found = []
        for key in range(10_000, 10_005):
            start = with_new_head(trained, key)
            tuned = learner.train(start, pixels, labels, num_steps=num_steps)
            found.append(accuracy(tuned))
        row.append(f'{np.mean(found):.1f} ± {np.std(found, ddof=1):.1f}')
    table[name] = row
print(f'{"accuracy (%)":14} {"NME":>6} {"20 steps":>14} {"200 steps":>14}')
for name, (nme, short, long) in table.items():
    print(f'{name:14} {nme:>6} {short:>14} {long:>14}')

# %% [markdown]
# ## Next
#
# - [Models of your own](own_model.md): nnx modules, BatchNorm, less memory.
# - [Hypergradients](hypergradients.md): cheaper ways through the inner steps.
# - [The method](method.md): the same over phases in which classes arrive.
