"""Records a run while it goes on."""
