"""The commands of `anymodality`, one module each. They load what they need when they run, so that help is quick."""
