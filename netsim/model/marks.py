"""Every packet mark bit in use, so that no two components take the same one."""

# kube-proxy's --iptables-masquerade-bit 14: "source NAT this packet on its way out".
# Source: kubernetes pkg/proxy/apis/config/v1alpha1/defaults.go.
MASQUERADE = 0x4000

# The CNI plugin's port mappings: masquerade hairpin and localhost traffic (the reference portmap's default bit 13).
# Source: containernetworking/plugins plugins/meta/portmap/main.go.
PORTMAP_MASQUERADE = 0x2000
