"""The embedded toy world: its renderer, its training sets and its small models."""

#: Command -> module and its one line of help.
COMMANDS = {
    "preview": ("framework.cli.world.preview", "write a labelled contact sheet of the world"),
    "render": ("framework.cli.world.render", "render a training set"),
    "pretrain": ("framework.cli.world.pretrain", "train or export one of the world's models"),
    "evaluate": ("framework.cli.world.evaluate", "measure the exported models' quality"),
}
