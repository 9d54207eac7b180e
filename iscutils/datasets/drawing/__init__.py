"""Drawing of procedural scenes; `iscutils.datasets.scenes` chooses among the layouts here."""
