"""A package of somebody's own: networks, data and a metric, as the documents name them (`my_package`)."""
