"""Everything that comes from outside is read here: bounded, plain files only, nothing executed."""
