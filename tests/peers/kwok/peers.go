//go:build peers

// Package peers keeps in go.mod what `make peers` builds.
package peers

import _ "sigs.k8s.io/kwok/cmd/kwok"
