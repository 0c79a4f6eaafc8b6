"""The embedded world: procedural toy objects, scenes, captions and their renders."""
