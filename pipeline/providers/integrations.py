"""The providers whose targets a file names, by the name that targets of commands carry."""

from collections.abc import Mapping
from typing import Any, Final

from pipeline.providers.aws.integration import AwsIntegration
from pipeline.providers.azure.integration import AzureIntegration
from pipeline.providers.gcp.integration import GcpIntegration
from pipeline.providers.kubernetes.integration import KubernetesIntegration
from pipeline.providers.targets import Integration

INTEGRATIONS: Final[Mapping[str, Integration[Any]]] = {
    "kubernetes": KubernetesIntegration(),
    "aws": AwsIntegration(),
    "azure": AzureIntegration(),
    "gcp": GcpIntegration(),
}
