#!/usr/bin/env bash
# MLflow for a team: runs in PostgreSQL, artifacts in S3, users with passwords. Clients reach S3 through this server and need no
# keys of it. Listens on loopback; put a proxy with TLS before it, or set MLFLOW_LISTEN (and MLFLOW_LISTEN_PORT). MLflow refuses calls
# by a name that it was not told: MLFLOW_SERVER_ALLOWED_HOSTS=mlflow.example.org lets that one in.
#   pip install "mlflow[auth]" "psycopg[binary]" boto3
#   MLFLOW_DATABASE=postgresql://... MLFLOW_ARTIFACTS=s3://bucket/mlflow MLFLOW_FLASK_SERVER_SECRET_KEY=... \
#     MLFLOW_AUTH_CONFIG_PATH=auth.ini cluster/mlflow/serve.sh
# S3's keys come from the environment (AWS_ACCESS_KEY_ID and the like) or the machine's role. Jobs then get MLFLOW_TRACKING_URI,
# MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in their environment.
set -euo pipefail
: "${MLFLOW_DATABASE:?postgresql://USER:PASSWORD@HOST/NAME}"
: "${MLFLOW_ARTIFACTS:?s3://BUCKET/FOLDER}"
: "${MLFLOW_FLASK_SERVER_SECRET_KEY:?a long random text, the same after a restart}"
: "${MLFLOW_AUTH_CONFIG_PATH:?path of an auth.ini like the one beside this file}"
exec mlflow server --app-name basic-auth --backend-store-uri "$MLFLOW_DATABASE" --serve-artifacts \
  --artifacts-destination "$MLFLOW_ARTIFACTS" --host "${MLFLOW_LISTEN:-127.0.0.1}" --port "${MLFLOW_LISTEN_PORT:-5000}" --workers 2
