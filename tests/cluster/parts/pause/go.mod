// The first container of every pod of the test cluster.
module weft.dev/tests/cluster/pause

go 1.26.0
