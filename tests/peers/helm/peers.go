//go:build peers

// Package peers keeps in go.mod what `make peers` builds.
package peers

import _ "helm.sh/helm/v3/cmd/helm"
