//go:build tools

// Package servers pins the real servers that the tests of Meshwork run against.
package servers

import (
	_ "go.etcd.io/etcd/etcdctl/v3"
	_ "go.etcd.io/etcd/server/v3"
)
