// Pictures from a camera frame or a photo, and the small image that stands for one in the lists.
import { DemoError, type Preprocess } from "@lowdino/core";

export interface Picture {
  image: ImageData;
  thumbnail: string;
}

const THUMBNAIL = 112; // pixels: 56 on the screen, twice that for sharp displays
/** iOS gives canvases no more than this; larger photos are halved by the browser until they fit. */
const MAX_PIXELS = 16_000_000;

const small = document.createElement("canvas");
small.width = small.height = THUMBNAIL;

export function pictureOf(image: ImageData, source: CanvasImageSource, preprocess: Preprocess): Picture {
  return { image, thumbnail: thumbnail(source, image.width, image.height, preprocess) };
}

/** A photo file, upright as its EXIF data says, at its own size. */
export async function readPhoto(file: File, preprocess: Preprocess): Promise<Picture> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new DemoError(`'${file.name}' is no picture that this browser reads`, "take JPEG or PNG");
  }
  let { width, height } = bitmap;
  while (width * height > MAX_PIXELS) [width, height] = [width >> 1, height >> 1];
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (context === null) throw new DemoError("this browser gives no canvas", "close other tabs and try again");
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return pictureOf(context.getImageData(0, 0, width, height), canvas, preprocess);
}

/** The square that the network sees, for the eye only: a canvas may resample here. */
function thumbnail(source: CanvasImageSource, width: number, height: number, preprocess: Preprocess): string {
  const side = Math.min(width, height) * seen(preprocess);
  const context = small.getContext("2d");
  if (context === null) return "";
  context.imageSmoothingQuality = "high";
  context.drawImage(source, (width - side) / 2, (height - side) / 2, side, side, 0, 0, THUMBNAIL, THUMBNAIL);
  return small.toDataURL("image/jpeg", 0.8);
}

/** The share of the shorter side that the network sees. */
export function seen(preprocess: Preprocess): number {
  return Math.min(1, preprocess.imageSize / preprocess.resize);
}
