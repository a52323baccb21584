#!/bin/sh
# Mails the verdict on this machine's GPUs to $MAILTO, each time that it has changed: one mail as a GPU falls sick, one as
# it is well again. What could not be mailed is tried again the next time. sendmail is what Postfix, Exim, msmtp and
# nullmailer all have; another one in $SENDMAIL.
set -u
: "${MAILTO:?write MAILTO=you@example.com into /etc/gpu-exporter/check}"
state=${STATE_DIRECTORY:-/var/lib/gpu-exporter-check}/verdict
# shellcheck disable=SC2086 # several flags
verdict=$("${GPU_EXPORTER:-gpu-exporter}" check ${GPU_CHECK_FLAGS:-} 2>&1)
now=$(printf '%s\n' "$verdict" | sed -n 1p)
before=$(cat "$state" 2>/dev/null || echo "healthy: ")
case $before in
"$now") exit 0 ;;
healthy:*) case $now in healthy:*) exit 0 ;; esac ;;
esac
{
	printf 'To: %s\nSubject: [%s] GPUs %s\nAuto-Submitted: auto-generated\n' "$MAILTO" "$(uname -n)" "$now"
	printf 'MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n%s\n' "$verdict"
} | "${SENDMAIL:-/usr/sbin/sendmail}" -t -i || exit 1
printf '%s\n' "$now" >"$state.new" && mv "$state.new" "$state"
